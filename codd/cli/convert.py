"""`codd convert`: circuits of the method's authors into coupled models, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pcircuits as pc
from codd.checkpoint import has_checkpoint
from codd.coupling.settings import COUPLINGS, CouplingSettings
from codd.denoisers.native import NativeDenoiser
from codd.errors import CheckpointError, ConfigError
from codd.hub import DEMO
from codd.model import CoupledModel
from codd.published import PublishedSettings, load_published_circuit, save_published_circuit


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "convert",
        help="couple a denoiser by a published circuit, or write a model's circuit for PyJuice",
        description="With --denoiser, SOURCE is a circuit as the method's authors publish it (a "
        "folder or hub id with model.jpc, or with pc_model.jpc and codd_config.json, or a .jpc "
        "file), and OUT becomes a model. Without, SOURCE is a model, and its circuit is written to "
        "OUT: a .jpc file, or a folder with pc_model.jpc and codd_config.json (of LLaDA "
        "and Dream; of others with model.jpc). Nothing in a .jpc file is run.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a published circuit, or a model")
    parser.add_argument("out", type=Path, metavar="OUT", help="what is written; must not be there")
    parser.add_argument("--denoiser", metavar="NAME", help="folder or hub id of LLaDA, Dream, ...")
    parser.add_argument(
        "--coupling",
        choices=COUPLINGS,
        help="the model's; default product, which published circuits are trained for",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Reads and writes.

    Raises:
        CoddError: If the input is wrong, or the parts do not fit together.
        pcircuits.errors.FormatError: If the circuit cannot be read or written.
    """
    if args.out.exists():
        raise ConfigError(f"{args.out}: expected nothing there, found something; choose another")
    if args.denoiser is not None:
        _couple(args)
    elif args.coupling is not None:
        raise ConfigError("--coupling: expected --denoiser, which makes a model; found none")
    else:
        _export(args)
    print(f"wrote {args.out}")


def _couple(args: argparse.Namespace) -> None:
    settings = None if args.coupling is None else CouplingSettings(args.coupling)
    circuit = load_published_circuit(args.source)
    model = CoupledModel.from_parts(args.denoiser, circuit, settings=settings)
    model.save_pretrained(args.out, record={"circuit": args.source})


def _export(args: argparse.Namespace) -> None:
    if Path(args.source).exists() and not has_checkpoint(args.source) and args.source != DEMO:
        raise CheckpointError(
            f"{args.source}: expected a model, found none; a published circuit is converted with "
            "--denoiser"
        )
    model = CoupledModel.from_pretrained(args.source)
    if model.modulator.kind != "static":
        print(f"the {model.modulator.kind} modulator is left out: the file has the circuit alone")
    if args.out.suffix == ".jpc":
        pc.write_jpc(args.out, model.circuit.weighted())
        return
    save_published_circuit(args.out, model.circuit, _settings(model))


def _settings(model: CoupledModel) -> PublishedSettings | None:
    """What the authors' programs need to know; None of a denoiser that they do not run."""
    denoiser = model.denoiser
    if not isinstance(denoiser, NativeDenoiser):
        return None
    return PublishedSettings(
        base_model_id="" if denoiser.origin is None else denoiser.origin.name,
        base_model_type="dream" if denoiser.config.shifted else "llada",
        mask_id=model.mask_id,
        vocab_size=model.num_categories,
        block_length=model.block,
    )
