"""Write ROS 2 bags from what is not one: our synthetic world, DriveLM, KITTI."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from clkd_core.data.bags.files import Storage
from clkd_core.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bag``."""
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    _add_source(
        sources,
        "from-world",
        _from_world,
        "validation drives of the synthetic world, drawn now, labels at 2 Hz",
        "a world config (YAML), or a folder that `clkd world` wrote",
    )
    _add_source(
        sources,
        "from-drivelm",
        _from_drivelm,
        "DriveLM keyframes: one bag per scene, six images, no poses, no labels",
        "folder with DriveLM's JSON and nuscenes/samples",
    )
    _add_source(
        sources,
        "from-kitti",
        _from_kitti,
        "a KITTI odometry sequence: one camera, poses, labels where 3 s follow",
        "folder with image_l or image_0, poses.txt and calib.txt",
    )


def run(args: argparse.Namespace) -> int:
    """Write the bag or bags, say what and where; 0."""
    convert: Callable[[argparse.Namespace], None] = args.convert
    convert(args)
    return 0


def _add_source(
    sources: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    convert: Callable[[argparse.Namespace], None],
    what: str,
    where: str,
) -> None:
    parser = sources.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.set_defaults(convert=convert)
    parser.add_argument("input", type=Path, help=where)
    parser.add_argument("out", type=Path, help="where the bag goes; a bag there is replaced")
    parser.add_argument(
        "--storage", choices=get_args(Storage), default="mcap", help="default %(default)s"
    )


def _from_world(args: argparse.Namespace) -> None:
    from clkd_core.data.bags.sources.world import load_world, write_world_bag

    world = load_world(args.input)
    counts = write_world_bag(world, args.out, storage=args.storage)
    print(
        f"wrote {args.out}: {counts.drives} validation drives, {counts.duration_s:.0f} s, "
        f"{counts.image_sets} image sets, {counts.keyframes} labelled keyframes, "
        f"{counts.corner_keyframes} of them corner cases"
    )


def _from_drivelm(args: argparse.Namespace) -> None:
    from clkd_core.data.bags.sources.drivelm import load_drivelm_scenes, write_drivelm_bag

    scenes = load_drivelm_scenes(args.input)
    for token, images in progress(scenes.items(), total=len(scenes), desc="bags", unit="scenes"):
        count = write_drivelm_bag(args.out / token, images, storage=args.storage)
        print(f"wrote {args.out / token}: {count} images, no poses, no labels")


def _from_kitti(args: argparse.Namespace) -> None:
    from clkd_core.data.bags.sources.kitti import (
        compute_label,
        load_kitti_sequence,
        write_kitti_bag,
    )

    sequence = load_kitti_sequence(args.input)
    total = len(sequence.image_paths)
    written = write_kitti_bag(sequence, args.out, storage=args.storage)
    count = sum(1 for _ in progress(written, total=total, desc="bag", unit="images"))
    labels = sum(compute_label(sequence, number) is not None for number in range(total))
    print(f"wrote {args.out}: {count} images, {labels} labelled, route unknown")
