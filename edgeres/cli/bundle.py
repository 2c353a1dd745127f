"""Commands that hand a proven engine over: make a bundle, run one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import Screen, screen
from edgeres.errors import DataError, UsageError
from edgeres.evaluation import run_folder

if TYPE_CHECKING:
    from edgeres.bundling.reading import Reading
    from edgeres.bundling.session import Answer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of `edgeres convert`.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", help="Only this engine; repeat for several.")
]


def bundle(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; DIR/bundle.edgeres if left out.")
    ] = None,
    target: Targets = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Output folder of a further run of the same network with the other kind of "
            "weights (`saturation_safe`); run takes what fits its CPU.",
        ),
    ] = None,
    labels: o.Labels = None,
    license_name: Annotated[
        str, typer.Option("--license", help="Licence of the weights, for the model card.")
    ] = "",
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="PEM file with an Ed25519 private key.")
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            help="Write a folder for a server or a tool instead: triton, openvino-model-server, "
            "deepstream or trtexec."
        ),
    ] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Put proven engines, their proof and all that running them takes into one file."""
    with screen(as_json=as_json, debug=debug) as out:
        if serve is not None:
            from edgeres.bundling.serve import serve as write

            if labels or license_name or sign or also:
                raise UsageError(
                    "--labels, --license, --sign and --also are for a bundle, not for a model "
                    "repository."
                )
            served = write(folder, serve, output, targets=target or ())
            for name, reason in served.left_out.items():
                out.note(f"warning: the engine for {name} is left out: {reason}")
            from edgeres.report.schema import read_report

            report = read_report(folder / run_folder.REPORT)
            _warn(
                out,
                {
                    name: f"{part.verdict}: {part.reason}"
                    for name, part in report.targets.items()
                    if part.verdict != "pass"
                    and name not in served.left_out
                    and (not target or name in target)
                },
            )
            content = {
                "repository": str(served.place),
                "server": serve,
                "models": list(served.models),
                "left_out": dict(served.left_out),
            }
            out.lines(content, [f"{served.place}: {', '.join(served.models)}"])
            return
        from edgeres.bundling.make import bundle as run
        from edgeres.data.label_file import read_labels

        made = run(
            folder,
            output,
            targets=target or (),
            also=also or (),
            class_names=read_labels(labels) if labels else (),
            license_name=license_name,
            key=sign,
        )
        _warn(out, made.manifest.not_proven)
        line = f"{made.path}: {made.size_bytes:,} bytes, SHA-256 {made.sha256}"
        out.lines(made.to_dict(), [line])


def _warn(out: Screen, not_proven: Mapping[str, str]) -> None:
    """One line on stderr for each engine whose verdict is no pass."""
    for target, told in not_proven.items():
        out.note(f"warning: the engine for {target} is not proven; its verdict is {told}")


def _told(found: Sequence[Answer] | Reading) -> tuple[dict[str, object], list[str]]:
    """The classes of an image, or what another task's outputs mean, as JSON values and lines."""
    if isinstance(found, Sequence):
        lines = [f"  {100 * answer.confidence:6.2f} %  {answer.label}" for answer in found]
        return {"answers": [vars(answer) for answer in found]}, lines
    outputs = {name: values.tolist() for name, values in found.outputs.items()}
    return {"text": found.text, "outputs": outputs}, [f"  {found.text}"]


#: Samples that the engine runs at once; those of standard input are answered as they come.
_TOGETHER = 8
Reference = Annotated[
    str, typer.Argument(metavar="REFERENCE", help="REGISTRY/NAME:TAG, or @sha256:... for pull.")
]
PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="No encryption, for a registry on this machine.")
]


def push(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle of `edgeres bundle`.")],
    reference: Reference,
    plain_http: PlainHttp = False,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Bring a bundle, and the signature beside it, into an OCI registry."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.bundling.registry import push as run_push

        made = run_push(file, reference, plain_http=plain_http)
        out.lines(made.to_dict(), [made.pinned])


def pull(
    reference: Reference,
    output: Annotated[Path, typer.Option(help="The file to write.")],
    plain_http: PlainHttp = False,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Bring a bundle from an OCI registry, and check every digest on the way."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.bundling.registry import pull as run_pull

        pulled = run_pull(reference, output, plain_http=plain_http)
        out.lines({"bundle": str(output), **pulled.to_dict()}, [f"{output}: {pulled.pinned}"])


def run(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle of `edgeres bundle`.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, folders of them, or - for an image or names on standard input.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes for each image.")] = 5,
    target: Annotated[
        str | None, typer.Option(help="Which engine; the first that runs here if left out.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:N, gpu[:N], npu or auto.")] = None,
    threads: o.Threads = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file with the public key that must have signed it.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build the engine anew where it does not fit.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Skip the trial of the engine in a child process.")
    ] = False,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Run images or other samples through a bundle; needs a runtime and no torch.

    Answers come as they get ready; a sample that cannot be read is told, and the others go on.
    The engine of a bundle without a signature (--key) first runs in a child process, so that one
    that crashes or hangs is an error message.
    """
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.bundling.given import STDIN, given_samples
        from edgeres.bundling.session import Session

        with Session(
            file,
            target=target,
            device=device,
            threads=threads,
            key=key,
            rebuild=rebuild,
            isolate=key is None and not trust,
            batch_size=1 if STDIN in images else _TOGETHER,
        ) as session:
            not_proven = session.manifest.not_proven
            _warn(out, {t: told for t, told in not_proven.items() if t == session.target})
            samples, named = tee(given_samples(images, session.preprocess, sys.stdin.buffer))
            outcomes = session.outcomes(
                (sample for _, sample in samples), top=top, ahead=0 if STDIN in images else None
            )
            told: list[dict[str, object]] = []
            bad: list[DataError] = []
            for (name, _), outcome in zip(named, outcomes, strict=True):
                if isinstance(outcome, DataError):
                    bad.append(outcome)
                    told.append({"image": name, "error": outcome.message})
                    if len(images) > 1 or name != images[0]:
                        out.note(f"warning: {outcome.message}")
                    continue
                values, lines = _told(outcome)
                told.append({"image": name, **values})
                out.line(name, *lines)
            if not told:
                raise DataError("no samples were named.", hint="Standard input (-) was empty.")
            if bad and len(told) == 1:
                raise bad[0]
            content = {
                "target": session.target,
                "not_proven": not_proven.get(session.target, ""),
                "rebuilt": session.rebuilt,
                "self_test": session.self_test.to_dict() if session.self_test else None,
                "images": told,
            }
        out.lines(content, ())
        if bad:
            out.note(f"error: {len(bad)} of {len(told)} samples could not be answered.")
            raise typer.Exit(DataError.exit_code)
