"""`lhmforge model`: check the model against reference tensors, import released weights, print what a preset costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command("verify-reference")
def verify_reference(
    file: Annotated[Path, typer.Argument(help="Reference tensors (safetensors): weight.*, in.*, out.*")],
) -> None:
    """Runs our modules on the inputs of FILE and compares with its outputs; exits 1 when one differs too much."""
    from lhmforge.lhm_model.reference import TOLERANCE
    from lhmforge.lhm_model.reference import verify_reference as verify

    rows = verify(file)
    print(f"{'output':<28} {'max relative error':>18} {'max absolute error':>18}")
    for row in rows:
        print(f"{row.name:<28} {row.relative:>18.2e} {row.absolute:>18.2e}  {'ok' if row.passed else 'FAIL'}")
    failed = [row.name for row in rows if not row.passed]
    print(f"{len(rows) - len(failed)} of {len(rows)} outputs within {TOLERANCE:g} of the largest reference magnitude")
    if failed or not rows:
        raise typer.Exit(1)


@app.command("import")
def import_command(
    checkpoint: Annotated[Path, typer.Argument(help="Released checkpoint (safetensors)")],
    preset: Annotated[str, typer.Option(help="Preset that the checkpoint belongs to, e.g. 0.5b")],
    output: Annotated[Path, typer.Option(help="Checkpoint folder to write; must not exist")],
    body: Annotated[str | None, typer.Option(help="Body model file (default: the free body)")] = None,
    points: Annotated[Path | None, typer.Option(help="The release's point file (.ply)")] = None,
    body_encoder: Annotated[
        Path | None, typer.Option(help="Your Sapiens TorchScript file, which the model needs to run")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option(help="Write the checkpoint even when the file leaves parameters at their random start")
    ] = False,
) -> None:
    """Maps a released checkpoint onto our modules and lists every tensor that found no place."""
    from lhmforge.datasets.body.model import BodyModel
    from lhmforge.datasets.body.resolve import body_path
    from lhmforge.lhm_model.config import preset as named_preset
    from lhmforge.lhm_model.config import with_encoder_weights
    from lhmforge.lhm_model.release_import import describe, import_checkpoint

    imported = import_checkpoint(
        checkpoint,
        with_encoder_weights(named_preset(preset), body=str(body_encoder.resolve()) if body_encoder else ""),
        BodyModel.load(body_path(body), num_expression=10),
        output,
        point_file=points,
        allow_missing=allow_missing,
    )
    print(describe(imported.report))
    if not imported.points_given:
        print("query points: drawn anew; the released weights know only their own set, pass it with --points FILE.ply")
    print(f"written: {imported.folder}")


@app.command("export")
def export_command(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint, or the run folder it lies in")],
    output: Annotated[Path, typer.Option(help="The .safetensors file to write")],
) -> None:
    """Writes the model of a checkpoint (averaged weights where there are any) as one file."""
    from lhmforge.datasets.errors import ConfigError
    from lhmforge.lhm_model.checkpoint_read import export_model

    if output.suffix != ".safetensors":
        raise ConfigError(f"--output {output}: must end in .safetensors")
    print(f"written: {export_model(checkpoint, output)}")


@app.command("summary")
def summary(preset: Annotated[str, typer.Option(help="tiny, mini, 0.5b, 0.7b or 1b")] = "0.5b") -> None:
    """Prints parameters, tokens, operations and memory of a preset; needs no weight file."""
    from lhmforge.lhm_model.config import preset as named_preset
    from lhmforge.lhm_model.summary import summarise

    config = named_preset(preset)
    found = summarise(config)
    print(f"{preset}: width {config.width}, {config.num_heads} heads, {config.num_blocks} blocks")
    print(f"\n{'part':<22} {'trainable':>15} {'frozen':>15}")
    for part in found.parts:
        print(f"{part.name:<22} {part.trainable:>15,} {part.frozen:>15,}")
    print(f"{'total':<22} {found.trainable:>15,} {found.frozen:>15,}")
    layout = found.layout
    print(f"\ntokens: {layout.body_points:,} body + {layout.head_points:,} head points, "
          f"{layout.body_tokens:,} body + {layout.head_tokens:,} head image tokens")  # fmt: skip
    print(f"attention lengths: body {layout.body_attention:,}, head {layout.head_attention:,}")
    flops, dense = found.flops, found.dense_flops
    print("\nTFLOP per image, forward (multiply-add = 2):")
    print(f"  transformer {flops.total / 1e12:.4g} = projections {flops.projections / 1e12:.4g} + attention "
          f"{flops.attention / 1e12:.4g} + feed-forward {flops.feed_forward / 1e12:.4g}")  # fmt: skip
    print(f"  (with the last block's unused context queries, as the release runs: {dense.total / 1e12:.4g})")
    print(f"  body encoder {found.body_encoder_flops / 1e12:.4g}, head encoder {found.head_encoder_flops / 1e12:.4g}")
    print("\nmemory estimate, GB:")
    print(f"  training state {found.training_state_bytes / 1e9:.1f} (float32 weights, gradients, AdamW moments)")
    print(f"  transformer activations per sample {found.activation_bytes_per_sample / 1e9:.1f} (bf16, no recompute)")
    print(f"  inference weights {found.inference_weight_bytes / 1e9:.1f} (bf16)")
