"""How much of what clothes should hide comes through them: a sweep over motions, people and views.

    python -m benchmarks.poke_through [--people 10] [--undraped] [--sheet sheet.png]

Counted are visible pixels of body faces that lie at rest inside a garment's region by 2 cm or more (hands and head
aside), and of leggings inside a skirt's, as a share of the figure's pixels. `--undraped` leaves the clothes as skinning
puts them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool

from lhmforge.datasets.body.free_body import free_body_path
from lhmforge.datasets.body.joints import joint
from lhmforge.datasets.body.model import BodyModel
from lhmforge.datasets.synthetic.motion import MOTIONS, make_motion
from lhmforge.datasets.synthetic.person import Person, make_person
from lhmforge.datasets.synthetic.raster import rasterise
from lhmforge.datasets.synthetic.render import Figure, render_frame
from lhmforge.datasets.synthetic.scene import grounded, in_camera, looking_at, random_light
from lhmforge.datasets.synthetic.wardrobe import load_shells

_WIDTH, _HEIGHT = 240, 320
_INTRINSICS = np.array([[420, 0, _WIDTH / 2], [0, 420, _HEIGHT / 2], [0, 0, 1]], np.float32)
_MARGIN_M = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--undraped", action="store_true")
    parser.add_argument("--sheet", type=Path, default=None)
    options = parser.parse_args()
    body = BodyModel.load(free_body_path())
    shares: dict[tuple[str, str], list[float]] = {}
    rows = []
    for seed in range(options.people):
        cells = []
        for name in MOTIONS:
            rng = np.random.default_rng([55, seed])
            person = make_person(body, rng)
            dressed = "skirt" if any(garment.name == "skirt" for garment in person.garments) else "trousers"
            measured, picture = _measure(replace(person, draped=()) if options.undraped else person, name, rng)
            shares.setdefault((dressed, name), []).extend(measured)
            cells.append(picture)
        rows.append(np.concatenate(cells, axis=1))
    for (dressed, name), values in sorted(shares.items()):
        mean, worst = 100 * float(np.mean(values)), 100 * max(values)
        print(f"{dressed:9} {name:11} {len(values):4} views  mean {mean:.3f} %  worst {worst:.2f} %")
    if options.sheet is not None:
        cv2.imwrite(str(options.sheet), np.concatenate(rows, axis=0)[..., ::-1])


def _measure(person: Person, motion_name: str, rng: np.random.Generator) -> tuple[list[float], np.ndarray]:
    body = person.body
    motion = make_motion(motion_name, 9, 4.0, rng)
    world = grounded(body, person.betas, motion, np.zeros(3)).select(np.array([2, 4, 6]))
    hidden, found = _to_be_hidden(person), []
    picture = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    for azimuth in (0.4, 2.0, 3.5, 5.1):
        eye = np.array([3.2 * np.sin(azimuth), 1.1, 3.2 * np.cos(azimuth)])
        camera = looking_at(eye, np.array([0, 0.75, 0]), _INTRINSICS)
        for frame, vertices in enumerate(person.pose(in_camera(body, world, camera))):
            seen = rasterise(vertices, person.surface.faces, _INTRINSICS, width=_WIDTH, height=_HEIGHT).face_id
            found.append(float(hidden[seen[seen >= 0]].mean()))
            if frame == 1 and azimuth < 1:
                grey = np.full((_HEIGHT, _WIDTH, 3), 0.55, np.float32)
                figure = Figure(surface=person.surface, vertices=vertices)
                picture = render_frame((figure,), _INTRINSICS, grey, random_light(rng, camera)).image
    return found, picture


def _to_be_hidden(person: Person) -> Bool[np.ndarray, " F"]:
    """Faces that a garment covers at rest and that yet are drawn."""
    body, shells = person.body, load_shells()
    pieces = [shells.vertices[g.piece.shell_vertex] + g.piece.offset for g in person.garments]
    rest = np.concatenate([body.v_template.numpy(), *pieces])
    centre, layer = rest[person.surface.faces].mean(1), person.surface.face_texture
    leggings = np.isin(layer, [1 + i for i, g in enumerate(person.garments) if g.name == "trousers"])
    hidden = np.zeros(len(centre), bool)
    for garment in person.garments:
        if garment.covers is not None:
            below = (layer == 0) | leggings if garment.name == "skirt" else layer == 0
            hidden |= below & garment.covers.contains(centre, margin=_MARGIN_M)
    owner = body.dominant_joint.numpy()
    head = [joint(name) for name in ("head", "jaw", "left_eye", "right_eye")]
    bare = np.zeros(len(centre), bool)
    of_body = layer == 0
    owners = owner[person.surface.faces[of_body][:, 0]]
    bare[of_body] = (owners >= joint("left_index1")) | np.isin(owners, head)
    return hidden & ~bare


if __name__ == "__main__":
    main()
