# ruff: noqa: E402 (threads are set before NumPy is loaded)
"""RSLLM on LLaRA's data: next item among 20 candidates, with its baselines, controls and ablations.

    python benchmarks/rsllm.py --lastfm <folder> [--movielens <folder>] [--ablations] [--minutes M] [--keep <folder>]

`--lastfm` and `--movielens` are folders of LLaRA's windows; beside the latter, or where `--ml100k` says, lie the
ratings of MovieLens 100K. `--minutes` is the training time of each language model (both stages), `--sasrec-minutes`
that of each SASRec, which all variants share. Ablations have budgets of their own, and the main row is trained again
with them. `--keep` is a folder for figures that are done, so that a stopped run goes on. `--quick` is for tests.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import argparse
import json
import time
from pathlib import Path
from typing import Any

import _report
import numpy as np
import torch
from _rsllm_data import LENGTH, Cases, World, lastfm, movielens
from _rsllm_measure import fused, hits, last_only, told, with_error

from recsim_env.draws import Draws
from recsim_env.recommenders.cooccurrence import Cooccurrence, CooccurrenceConfig
from recsim_env.recommenders.popularity import Popularity
from recsim_env.recommenders.rsllm.config import RSLLMConfig
from recsim_env.recommenders.rsllm.recommender import RSLLM, log_softmax
from recsim_env.recommenders.sasrec import SASRec, SASRecConfig
from recsim_env.records import FloatArray, IntArray, ObservationBatch
from recsim_env.testing import observations

SEED = 0
KNOWN = {"popularity": 0.231, "co-occurrence, window 10": 0.713}
"""Figures measured elsewhere on the same cases, which must come out within .01."""
SMOOTHING = 0.05
COUNTS, SASREC, TOWERS, TITLES = "co-occurrence", "SASRec", "towers", "titles"
COUNTED = ["popularity", COUNTS, SASREC]
"""What RSLLM is fused with, and what it must add to."""
VARIANTS: dict[str, dict[str, Any]] = {
    "both channels, two stages": {},
    "text only (title tokens)": {"channels": "text"},
    "ID only": {"channels": "id"},
    "shuffled IDs": {"shuffle_ids": True},
    "no language modelling": {"language": False},
    "no user-target contrast": {"weight_ut": 0.0},
    "no target-target contrast": {"weight_tt": 0.0},
    "one stage": {"stage1_epochs": 0},
    "pooling: mean": {"pooling": "mean"},
    "text only (spelled)": {"channels": "text", "titles": "spelled"},
    "both channels (spelled)": {"titles": "spelled"},
}
"""Changes of the main row's settings."""
PUBLISHED = """| published or measured elsewhere: SASRec (LLaRA's paper) | .344 | .223 |
| TALLRec (LLaRA's paper) | .390 | .418 |
| LLaRA with SASRec, best published | .453 | .525 |
| LLaRA's shipped SASRec, measured again | .374 | .296 |
| sequence co-occurrence counts, measured elsewhere | .395 | .357 |"""


class Bench:
    """One data set with its baselines.

    Args:
        world: The data set.
        args: The command line.
    """

    def __init__(self, world: World, args: argparse.Namespace) -> None:
        self.world, self.args, self.draws = world, args, Draws(SEED)
        self.n_items = world.train.n_items
        self.sasrec = self._sasrec()
        self.simple: dict[str, Any] = {
            "popularity": Popularity(),
            "co-occurrence, window 10": Cooccurrence(CooccurrenceConfig(window=LENGTH)),
            COUNTS: Cooccurrence(),
        }
        for made in self.simple.values():
            made.fit(world.train, self.draws)

    def _sasrec(self) -> SASRec:
        args = self.args
        made = SASRec(
            SASRecConfig(
                max_length=LENGTH, learning_rate=2e-3, dropout=0.3, epochs=args.epochs * 4, patience=10,
                minutes=args.sasrec_minutes,
            )
        )  # fmt: skip
        kept = None if args.keep is None else args.keep / f"sasrec-{self.world.name}"
        if kept is not None and (kept / "arrays.npz").is_file():
            return SASRec.load(kept)
        made.fitting.tell = lambda p: say(f"SASRec {self.world.name}: epoch {p.epoch}, nDCG@10 {p.validation:.4f}")
        made.fit(self.world.train, self.draws)
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            made.save(kept)
        return made

    def observed(self, cases: Cases) -> ObservationBatch:
        """The cases as observations."""
        rows = [row[row < self.n_items].tolist() for row in cases.history]
        return observations(self.world.train, rows, history_length=LENGTH)

    def baseline_scores(self, cases: Cases) -> dict[str, FloatArray]:
        """Log-probabilities of the catalogue by everything but the language model, each float32 (N, I)."""
        obs = self.observed(cases)
        found = {name: smoothed_log(np.maximum(made.scores(obs), 0)) for name, made in self.simple.items()}
        return {**found, SASREC: log_softmax(self.sasrec.scores(obs))}

    def trained(self, settings: dict[str, Any], epochs: int, minutes: float) -> tuple[RSLLM, float]:
        """A variant of RSLLM, and the minutes that its language model took."""
        plain: dict[str, Any] = {
            "size": self.args.size, "stage1_epochs": epochs // 3,
            "epochs": epochs - epochs // 3, "minutes": minutes, "sasrec": self.sasrec.config, "temperature": 0,
            **settings,
        }  # fmt: skip
        if not plain["stage1_epochs"]:
            plain["epochs"] = epochs  # one stage has as many passes as two
        made = RSLLM(RSLLMConfig(**plain))
        made.fitting.tell = lambda p: say(f"  epoch {p.epoch}: loss {p.loss:.3f}, nDCG@10 {p.validation:.4f}")
        begun = time.perf_counter()
        made.fit(self.world.train, self.draws, self.sasrec)
        return made, (time.perf_counter() - begun) / 60


def say(text: str) -> None:
    """Says how far it is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def smoothed_log(counts: FloatArray) -> FloatArray:
    """Log-probabilities out of counts, with a share of the even distribution."""
    total = counts.sum(axis=1, keepdims=True)
    even = 1.0 / counts.shape[1]
    shares = np.where(total > 0, counts / np.where(total > 0, total, 1), even)
    return np.asarray(np.log((1 - SMOOTHING) * shares + SMOOTHING * even), np.float32)


def parts_of(made: RSLLM, obs: ObservationBatch, candidates: IntArray | None) -> dict[str, FloatArray]:
    """What the language model says of the candidates, or of the whole catalogue."""
    towers = log_softmax(made.towers(obs.history))
    everything = np.broadcast_to(np.arange(made.n_items), (obs.n, made.n_items))
    asked = everything if candidates is None else candidates
    found = {TOWERS: np.take_along_axis(towers, asked, axis=1)}
    if made.config.channels != "id" and made.config.language:
        for form in ("sum", "pmi"):
            found[f"{TITLES}, {form}"] = made.candidate_scores(obs.history, asked, form)  # type: ignore[arg-type]
    return found


def fixed_row(bench: Bench, made: RSLLM, minutes: float, cases: Cases) -> dict[str, Any]:
    """A trained variant on the fixed candidates."""
    assert cases.candidates is not None
    known = {k: np.take_along_axis(v, cases.candidates, axis=1) for k, v in bench.baseline_scores(cases).items()}
    own = parts_of(made, bench.observed(cases), cases.candidates)
    row: dict[str, Any] = {
        "minutes": minutes, "epochs": len(made.log), "weight": made.fusion_weight,
    }  # fmt: skip
    row["alone"] = {name: told(hits(scores, cases.place), cases.user) for name, scores in own.items()}
    everything = {**known, **own}
    plain, _ = fused(everything, COUNTED, cases)
    with_sasrec, _ = fused(everything, [SASREC, *own], cases)
    with_all, weights = fused(everything, [*COUNTED, *own], cases)
    row["with SASRec"] = told(hits(with_sasrec, cases.place), cases.user)
    row["with all"] = told(hits(with_all, cases.place), cases.user)
    row["without"] = told(hits(plain, cases.place), cases.user)
    difference = with_error(hits(with_all, cases.place) - hits(plain, cases.place), cases.user)
    seen = bench.world.train.catalog.popularity[cases.target]
    row["cold"] = [
        {
            "targets": text, "cases": int(mask.sum()),
            **{name: told(hits(everything[name], cases.place)[mask], cases.user[mask])
               for name in (COUNTS, SASREC, *own)},
            "fusion": told(hits(with_all, cases.place)[mask], cases.user[mask]),
        }
        for text, mask in (("at most 5 times in training", seen <= 5), ("6 to 50 times", (seen > 5) & (seen <= 50)),
                           ("more than 50 times", seen > 50))
        if mask.any()
    ]  # fmt: skip
    row["gain"] = f"{difference[0]:+.3f} ± {difference[1]:.3f}"
    row["weights"] = dict(zip([*COUNTED, *own], np.round(weights, 2).tolist(), strict=True))
    if own.get(f"{TITLES}, sum") is not None:
        written = made.write(cases.history, cases.candidates)
        row["valid"] = float((written[:, None] == cases.candidates).any(axis=1).mean())
        row["written"] = told((written == cases.target).astype(float), cases.user)
    if made.config.channels != "text":
        row["dealt out afterwards"] = dealt_out(made, bench, cases)
    return row


def dealt_out(made: RSLLM, bench: Bench, cases: Cases) -> str:
    """The towers when, after training, every item gets the behaviour token of another one: is the channel used?"""
    kept = made.model.items.clone()
    order = torch.from_numpy(bench.draws.permutation("afterwards", made.n_items))
    made.model.items.copy_(kept[order])
    made.read_items()
    towers = made.towers(cases.history)
    made.model.items.copy_(kept)
    made.read_items()
    return told(hits(np.take_along_axis(towers, cases.candidates, axis=1), cases.place), cases.user)


def last_rows(bench: Bench, made: RSLLM, times: int) -> dict[str, dict[str, list[float]]]:
    """LLaRA's protocol for the baselines and a trained RSLLM: by method and part, mean and deviation."""
    found: dict[str, dict[str, list[float]]] = {}
    for part, cases in bench.world.last_only.items():
        obs = bench.observed(cases)
        scores = bench.baseline_scores(cases)
        for name, values in parts_of(made, obs, None).items():
            scores[f"RSLLM, {name}"] = values
        scores["RSLLM (SASRec and towers, its own weight)"] = made.scores(obs)
        for name, (mean, deviation) in last_only(scores, cases, times).items():
            found.setdefault(name, {})[part] = [mean, deviation]
    return found


class Kept:
    """Figures that are done, in a file where there is one."""

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / "figures.json"
        self.figures: dict[str, Any] = {}
        if self.path is not None and self.path.is_file():
            self.figures = json.loads(self.path.read_text())

    def put(self, name: str, value: Any) -> None:
        """Keeps a figure."""
        self.figures[name] = value
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.figures, indent=1))


def measure(worlds: list[World], variants: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """All figures: ``baselines``, ``main``, ``variant: ...`` and ``last: ...``."""
    kept = Kept(args.keep)
    for world in worlds:
        missing = [v for v in variants if f"variant: {v}" not in kept.figures and world.fixed is not None]
        if f"last: {world.name}" in kept.figures and not missing:
            continue
        bench = Bench(world, args)
        if f"last: {world.name}" not in kept.figures:
            made = main_row(bench, kept, args)
            kept.put(f"last: {world.name}", last_rows(bench, made, args.times))
        for variant in missing:
            say(f"{world.name}: {variant}")
            made, minutes = bench.trained(VARIANTS[variant], args.ablation_epochs, args.ablation_minutes)
            kept.put(f"variant: {variant}", fixed_row(bench, made, minutes, world.fixed))
    return kept.figures


def main_row(bench: Bench, kept: Kept, args: argparse.Namespace) -> RSLLM:
    """The main row's recommender; where it has fixed candidates, measured on them."""
    name, cases = bench.world.name, bench.world.fixed
    folder = None if args.keep is None else args.keep / f"rsllm-{name}"
    if folder is not None and (folder / "arrays.npz").is_file() and (cases is None or "main" in kept.figures):
        return RSLLM.load(folder)
    say(f"{name}: main row")
    made, minutes = bench.trained({}, args.epochs, args.minutes)
    if cases is not None:
        kept.put("baselines", baselines(bench, cases))
        kept.put("main", fixed_row(bench, made, minutes, cases))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        made.save(folder)
    return made


def baselines(bench: Bench, cases: Cases) -> dict[str, str]:
    """What needs no language model, on the fixed candidates."""
    scores = {k: np.take_along_axis(v, cases.candidates, axis=1) for k, v in bench.baseline_scores(cases).items()}
    found = {k: told(hits(v, cases.place), cases.user) for k, v in scores.items()}
    both, _ = fused(scores, COUNTED, cases)
    return {**found, "fusion: popularity, co-occurrence, SASRec": told(hits(both, cases.place), cases.user)}


def fixed_table(figures: dict[str, Any]) -> list[str]:
    """The main row on the fixed candidates, with its baselines."""
    main = figures["main"]
    weights = ", ".join(f"{k} {v:.2f}" for k, v in main["weights"].items())
    return [
        "## Fixed candidates (LastFM, validation, 2,767 cases of 122 users)\n",
        "| | HR@1 | measured elsewhere |",
        "|---|---|---|",
        *(f"| {k} | {v} | {KNOWN.get(k, '')} |" for k, v in figures["baselines"].items()),
        "| SASRec as LLaRA ships it | | 0.714 |",
        *(f"| RSLLM, {name} alone | {value} | |" for name, value in main["alone"].items()),
        f"| RSLLM, written greedily (ValidRatio {main['valid']:.3f}) | {main['written']} | |",
        f"| fusion: SASRec, RSLLM | {main['with SASRec']} | |",
        f"| **fusion: popularity, co-occurrence, SASRec, RSLLM** | **{main['with all']}** | |",
        f"\nRSLLM adds {main['gain']} to the fusion without it. Mean weights of the last fusion: {weights}. "
        f"{main['epochs']} epochs in {main['minutes']:.0f} minutes.\n",
        "### Cold and warm targets\n",
        "| target seen | cases | " + " | ".join(k for k in main["cold"][0] if k not in ("targets", "cases")) + " |",
        "|---|---|" + "---|" * (len(main["cold"][0]) - 2),
        *(f"| {' | '.join(map(str, row.values()))} |" for row in main["cold"]),
    ]


def ablation_table(figures: dict[str, Any], variants: list[str]) -> list[str]:
    """All variants at the small budget."""
    lines = [
        "\n## Ablations (the same cases)\n",
        "| | towers | tokens dealt out | titles, sum | titles, PMI | with SASRec | with all | adds | epochs, min |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants:
        row = figures[f"variant: {variant}"]
        parts = [row["alone"].get(name, "") for name in (TOWERS, f"{TITLES}, sum", f"{TITLES}, pmi")]
        parts.insert(1, row.get("dealt out afterwards", ""))
        cells = [variant, *parts, row["with SASRec"], row["with all"], row["gain"]]
        lines.append(f"| {' | '.join(cells)} | {row['epochs']}, {row['minutes']:.1f} |")
    return [
        *lines,
        "\n*tokens dealt out*: the towers when every item gets the behaviour token of another one **after** training: "
        "what is left does not come from the ID channel. *with all*: the fusion with popularity, co-occurrence and "
        "SASRec; *adds*: what it has over the fusion of these alone.",
    ]


def last_table(figures: dict[str, Any], times: int) -> list[str]:
    """The table of LLaRA's protocol."""
    worlds = [name for name in ("MovieLens", "LastFM") if f"last: {name}" in figures]
    lines = [f"\n## LLaRA's protocol (last item only, {times} draws of 19 other candidates)\n"]
    lines += ["| | " + " | ".join(f"{w} val | {w} test" for w in worlds) + " |", "|---|" + "---|---|" * len(worlds)]
    names = list(figures[f"last: {worlds[-1]}"]) if worlds else []
    for name in names:
        cells = []
        for world in worlds:
            for part in ("val", "test"):
                mean, deviation = figures[f"last: {world}"][name][part]
                cells.append(f"{mean:.3f} (sd {deviation:.3f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["\n| HR@1 on test | MovieLens | LastFM |", "|---|---|---|", PUBLISHED]
    return lines


def main() -> None:
    """Measures and writes ``results/rsllm.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lastfm", type=Path, required=True)
    parser.add_argument("--movielens", type=Path)
    parser.add_argument("--ml100k", type=Path)
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--sasrec-minutes", type=float, default=15.0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--ablation-minutes", type=float, default=60.0)
    parser.add_argument("--ablation-epochs", type=int, default=6)
    parser.add_argument("--first", type=int, help="so many ablations alone, in the order of VARIANTS")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--results", type=Path, default=_report.RESULTS)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    worlds = [lastfm(args.lastfm)]
    if args.movielens is not None:
        worlds.append(movielens(args.movielens, args.ml100k or args.movielens.parent / "ml-100k"))
    if args.quick:
        args.epochs, args.ablation_epochs, args.times = 3, 1, 3
        worlds = [world.few(60, 64) for world in worlds]
    variants = [*VARIANTS][: args.first] if args.ablations else []
    figures = measure(worlds, variants, args)
    head = (
        f"Seed {SEED}. Language models are from scratch (size `{args.size}`; titles are single tokens unless said) and "
        f"train for at most {args.epochs} epochs or {args.minutes:g} minutes, in ablations {args.ablation_epochs} "
        f"epochs or {args.ablation_minutes:g} minutes; SASRec for at most {args.sasrec_minutes:g} minutes; on "
        f"{args.threads} thread(s) of a shared processor. `±` is a standard error, clustered by user. Fusions are "
        "conditional logits whose weights are cross-fitted over two halves of the users. *towers* is v_U . v_T, "
        "*titles* the likelihood of the candidates' titles.\n"
    )
    body = [head, *fixed_table(figures), *(ablation_table(figures, variants) if variants else [])]
    body += last_table(figures, args.times)
    _report.write("rsllm", "RSLLM on LLaRA's data", "\n".join(body), args.results)


if __name__ == "__main__":
    main()
