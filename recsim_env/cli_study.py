"""``recsim-env study``: arms, seeds and intervals from one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recsim_env.cli_parts import Overrides, Quiet, TurnsBar, err, out, show_table


def study(
    name: Annotated[str, typer.Argument(help="A study; 'recsim-env list studies' shows all.")],
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Number of seeds.")] = 5,
    first_seed: Annotated[int, typer.Option("--seed", metavar="N", help="The first of them.")] = 0,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, help="Runs at once.")] = 1,
    out_dir: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder; default runs/study-NAME-TIME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Runs a study of a population: the same users under several arms, differences over seeds, a figure.

    A study that was stopped goes on when the same command is given the same folder with --out.

    Examples: `recsim-env study filter_bubble` · `recsim-env study polarisation --seeds 10 --workers 4` ·
    `recsim-env study conformity --set users.count=200 --set data.path=ml-1m --out my-study`
    """
    from recsim_env.experiments.studies.base import get_study
    from recsim_env.experiments.studies.results import tables
    from recsim_env.experiments.studies.run import RESULT, run_study
    from recsim_env.rundir import load_measurement, measurement_folder

    asked = get_study(name)
    folder = measurement_folder(out_dir, RESULT, f"study-{name}")
    try:
        with TurnsBar(quiet) as on_progress:
            run_study(asked, range(first_seed, first_seed + seeds), folder, overrides or [], on_progress, workers)
    except KeyboardInterrupt:
        err.print(f"Stopped. Go on with the same command and --out {folder}.", soft_wrap=True)
        raise typer.Exit(130) from None
    for title, lines in tables(asked, load_measurement(folder, RESULT)):
        show_table(lines, title)
    out.print(f"Study folder: {folder}", soft_wrap=True)
