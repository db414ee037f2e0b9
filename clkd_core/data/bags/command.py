"""Write ROS 2 bags from what is not one: nuScenes, DriveLM, KITTI, our synthetic world."""

import argparse
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from clkd_core.data.bags.files import METADATA, Storage
from clkd_core.progress import progress

if TYPE_CHECKING:
    from clkd_core.data.bags.sources.nuscenes import NuScenesDrive

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd bag``."""
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    _add_nuscenes(sources)
    _add_source(
        sources,
        "from-world",
        _from_world,
        "validation drives of the synthetic world, drawn now, labels at 2 Hz",
        "a world config (YAML), or a folder that `clkd world` wrote",
    )
    drivelm = _add_source(
        sources,
        "from-drivelm",
        _from_drivelm,
        "DriveLM keyframes: one bag per scene, six images, no poses, no labels",
        "folder with DriveLM's JSON and nuscenes/samples",
        keyframes="DriveLM holds nothing else: changes nothing",
    )
    _add_resume(drivelm)
    _add_source(
        sources,
        "from-kitti",
        _from_kitti,
        "a KITTI odometry sequence: one camera, poses, labels where 3 s follow",
        "folder with image_l or image_0, poses.txt and calib.txt",
        keyframes="one image in half a second; KITTI names no keyframes",
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
    *,
    keyframes: str = "leave out the images between the labelled keyframes",
) -> argparse.ArgumentParser:
    parser = sources.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.set_defaults(convert=convert)
    parser.add_argument("input", type=Path, help=where)
    parser.add_argument("out", type=Path, help="where the bag goes; a bag there is replaced")
    parser.add_argument(
        "--storage", choices=get_args(Storage), default="mcap", help="default %(default)s"
    )
    parser.add_argument("--keyframes-only", action="store_true", help=keyframes)
    return parser


def _add_nuscenes(sources: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _add_source(
        sources,
        "from-nuscenes",
        _from_nuscenes,
        "scenes of nuScenes: cameras at 12 Hz, every ego pose, labels at 2 Hz",
        "folder of the data set, holding samples/, sweeps/ and the version's tables",
        keyframes="leave the sweeps out; their files need not be there",
    )
    parser.add_argument("--version", required=True, help="folder of the tables: v1.0-mini, ...")
    parser.add_argument("--scenes", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument(
        "--skip-missing", action="store_true", help="go on without image files that are missing"
    )
    parser.add_argument(
        "--together", action="store_true", help="one bag of all scenes, not one for each in OUT"
    )
    _add_resume(parser)


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", action="store_true", help="leave the scenes' bags that are there as they are"
    )


def _from_nuscenes(args: argparse.Namespace) -> None:
    from clkd_core.data.bags.sources import nuscenes as source
    from clkd_core.data.bags.sources.nuscenes_scene import group_rows
    from clkd_core.data.nuscenes.devkit import open_nuscenes

    nusc = open_nuscenes(args.input, args.version)
    scenes = source.choose_scenes(nusc, args.scenes)
    rows = group_rows(nusc, scenes)
    source.check_images(
        args.input, rows, keyframes_only=args.keyframes_only, skip_missing=args.skip_missing
    )

    def drives() -> Iterator["NuScenesDrive"]:
        for scene in progress(scenes, desc="bags", unit="scenes"):
            if not args.together and _is_done(args, scene["name"]):
                continue
            yield source.read_drive(
                nusc, scene, rows[scene["token"]], keyframes_only=args.keyframes_only
            )

    if args.together:
        counts = source.write_nuscenes_bag(args.out, drives(), storage=args.storage)
        print(f"wrote {args.out}: {counts.line}")
        return
    for drive in drives():
        path = args.out / drive.scene.name
        counts = source.write_nuscenes_bag(path, [drive], storage=args.storage)
        print(f"wrote {path}: {counts.line}")


def _is_done(args: argparse.Namespace, name: str) -> bool:
    """A bag is there whole or not at all."""
    done: bool = args.resume and (args.out / name / METADATA).is_file()
    if done:
        _log.info("%s is there already", args.out / name)
    return done


def _from_world(args: argparse.Namespace) -> None:
    from clkd_core.data.bags.sources.world import load_world, write_world_bag

    world = load_world(args.input)
    counts = write_world_bag(
        world, args.out, storage=args.storage, keyframes_only=args.keyframes_only
    )
    print(
        f"wrote {args.out}: {counts.drives} validation drives, {counts.duration_s:.0f} s, "
        f"{counts.image_sets} image sets, {counts.keyframes} labelled keyframes, "
        f"{counts.corner_keyframes} of them corner cases"
    )


def _from_drivelm(args: argparse.Namespace) -> None:
    from clkd_core.data.bags.sources.drivelm import load_drivelm_scenes, write_drivelm_bag

    scenes = load_drivelm_scenes(args.input)
    for token, images in progress(scenes.items(), total=len(scenes), desc="bags", unit="scenes"):
        if _is_done(args, token):
            continue
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
    written = write_kitti_bag(
        sequence, args.out, storage=args.storage, keyframes_only=args.keyframes_only
    )
    numbers = list(progress(written, total=total, desc="bag", unit="images"))
    labels = sum(compute_label(sequence, number) is not None for number in numbers)
    print(f"wrote {args.out}: {len(numbers)} images, {labels} labelled, route unknown")
