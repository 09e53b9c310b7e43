"""The export of a model to another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from include import spec as specs
from include.cli.options import AsJson, Debug, UseCaseName, print_result, require_writable
from include.errors import EvergreenError

exports = typer.Typer()


@exports.command()
def export(
    usecase: UseCaseName,
    to: Annotated[str, typer.Option("--to", help="The format: onnx.")],
    model: Annotated[
        str, typer.Option("--model", help="The beginning of a model's digest. Default: the champion.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file, FILE.onnx. Default: named after use case and version."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the champion, its encoders included, as one ONNX file, with a model card beside it.

    The file is compared with the model on the newest partition, and isn't written if a prediction differs by
    more than 1e-9. Needs the packages of the extra `onnx`.
    """
    from include.export.convert import require_packages

    if to != "onnx":
        raise EvergreenError(f"--to {to}", required="onnx", found=to, remedy="give --to onnx")
    if out is not None and out.suffix != ".onnx":
        raise EvergreenError(
            f"--out {out}",
            required="a name that ends with .onnx",
            found=out.suffix or "no ending",
            remedy="give FILE.onnx; the model card is written beside it, as FILE.md",
        )
    require_writable(out, "--out")
    require_packages()
    from include.export.pipeline import export as export_model
    from include.reports.onnx_card import onnx_card
    from include.storage.lake import Lake

    spec = specs.load(usecase)
    result = export_model(Lake(usecase), spec, model)
    file = out or Path(f"{usecase}-{result.name}.onnx")
    card = file.with_suffix(".md")
    file.write_bytes(result.data)
    card.write_text(onnx_card(spec, result, file.name))
    compared = result.compared
    difference = f"at most {compared.difference:.2g} from the model, on {compared.rows:,} rows"
    text = f"{file}: {difference if compared.rows else 'not compared, because no partition has rows'}\n{card}"
    data = {name: value for name, value in vars(result).items() if name != "data"}
    data |= {"onnx": str(file), "card": str(card), "compared": vars(compared)}
    print_result(data, text, as_json)
