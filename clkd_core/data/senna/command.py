"""Senna's own JSON of questions: write it, read it, or add its questions to a set."""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clkd_core.data.sidecar import SPLITS
from clkd_core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd data senna``."""
    verbs = parser.add_subparsers(dest="do", required=True, metavar="DO")
    _add_export(verbs)
    _add_import(verbs)
    _add_add_questions(verbs)


def run(args: argparse.Namespace) -> int:
    """Do it, say what came of it; 0."""
    do: Callable[[argparse.Namespace], None] = args.call
    do(args)
    return 0


def _add_export(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "write a split of a set in Senna's layout, its questions built by rule"
    parser = verbs.add_parser("export", help=what, description=what[0].upper() + what[1:] + ".")
    parser.set_defaults(call=_export)
    _add_set(parser)
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file, replaced if there")
    parser.add_argument(
        "--senna-compat",
        action="store_true",
        help="navigation commands and names of views as the public converter writes them, its "
        "mistakes included; needs the tables of nuScenes in the version folder",
    )


def _add_import(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "bring files in Senna's layout into our form"
    parser = verbs.add_parser("import", help=what, description=what[0].upper() + what[1:] + ".")
    parser.set_defaults(call=_import)
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE.json", help="one for each split"
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--out", type=Path, required=True, help="root of the new set")
    parser.add_argument("--version", default="senna", help="its folder, default %(default)s")
    parser.add_argument(
        "--split", choices=SPLITS, help="of a single file; else its name ends in _train or _val"
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="go on without pictures that are missing"
    )


def _add_add_questions(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "write a set again with the questions that Senna's rules ask"
    parser = verbs.add_parser(
        "add-questions", help=what, description=what[0].upper() + what[1:] + "; images are linked."
    )
    parser.set_defaults(call=_add_questions)
    _add_set(parser)
    parser.add_argument("--out", type=Path, required=True, help="root of the new set")


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, metavar="SET_ROOT", help="root of a set in our form")
    parser.add_argument("--version", required=True, help="its version folder")


def _export(args: argparse.Namespace) -> None:
    from clkd_core.data.senna.writing import load_public_commands, write_senna_json
    from clkd_core.data.sidecar import load_keyframes

    keyframes = load_keyframes(args.root, args.version, args.split)
    commands = load_public_commands(args.root, args.version) if args.senna_compat else None
    counts = write_senna_json(keyframes, args.out, public_commands=commands)
    print(
        f"wrote {args.out}: {counts.records} questions about {counts.keyframes} keyframes, "
        f"{counts.plans} of them for the plan"
    )
    for reason, number in counts.left_out.items():
        print(f"left out: {number} keyframes {reason}")


def _import(args: argparse.Namespace) -> None:
    from clkd_core.data.senna.sets import import_senna

    files = _by_split(args.files, args.split)
    counts = import_senna(
        files, args.images, args.out, args.version, skip_missing=args.skip_missing
    )
    kinds: Counter[str] = Counter()
    for split, number in counts.keyframes.items():
        said = counts.samples[split]
        kinds.update(said.kinds)
        print(f"{split}: {number} keyframes of {said.samples} samples, {said.labelled} labelled")
        _print_if(said.contradicted, "plans contradict their own future: no label")
        _print_if(said.without_future, "plans come without a future: no label")
        _print_if(said.repeated, "questions came twice and were taken once")
    _print_if(len(counts.missing), "pictures are missing and left out")
    print(f"questions: {_listing(kinds)}")
    print(f"wrote {args.out / args.version}")


def _add_questions(args: argparse.Namespace) -> None:
    from clkd_core.data.senna.sets import add_questions

    keyframes, new = add_questions(args.root, args.version, args.out)
    print(f"wrote {args.out / args.version}: {keyframes} keyframes, {new} questions more")


def _by_split(files: Sequence[Path], split: str | None) -> dict[str, Path]:
    """Which file is which split's: as asked for, or by the end of its name."""
    if split is not None and len(files) == 1:
        return {split: files[0]}
    by_split: dict[str, Path] = {}
    for file in files:
        ending = next((s for s in SPLITS if file.stem.endswith(f"_{s}")), None)
        if split is not None or ending is None or ending in by_split:
            raise ConfigError(
                f"{file}: which split it is is not clear, expected a single file with --split, or "
                "one whose name ends in _train.json and one in _val.json"
            )
        by_split[ending] = file
    return by_split


def _print_if(number: int, what: str) -> None:
    if number:
        print(f"  {number} {what}")


def _listing(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "none"
