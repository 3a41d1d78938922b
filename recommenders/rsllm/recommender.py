"""RSLLM: items of a conventional recommender as a new language of a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from recsim_env.draws import Draws
from recsim_env.errors import RecsimError
from recsim_env.interfaces import Config
from recsim_env.lm.backbone import device_of, trainable
from recsim_env.recommenders.fitting import TrainedRecommender, train
from recsim_env.recommenders.rsllm import prompts, rank
from recsim_env.recommenders.rsllm.config import SCRATCH, RSLLMConfig
from recsim_env.recommenders.rsllm.model import UnifiedModel, make_model
from recsim_env.recommenders.rsllm.parts import Parts
from recsim_env.recommenders.rsllm.train import Batch, losses_of, make_batch, rows_of, shuffled
from recsim_env.recommenders.sasrec import SASRec, SASRecConfig, held_out_last, mean_ndcg, windows
from recsim_env.recommenders.store import Arrays
from recsim_env.records import Dataset, FloatArray, Histories, IntArray, ObservationBatch

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Weights of the towers that are tried on the validation users."""


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What a decoder from scratch must know of its tokenizer."""

    n: int
    eos_token_id: int
    pad_token_id: int

    def __len__(self) -> int:
        return self.n


class RSLLM(TrainedRecommender):
    """Behaviour as a language: titles and projected item embeddings in one prompt (arXiv 2412.16933).

    A SASRec is trained first. Its item embeddings, frozen, become behaviour tokens of a language model, which learns in
    two stages by language modelling and two contrasts. Scores of the catalogue are the log-probabilities of SASRec plus
    :attr:`fusion_weight` times those of the two towers, ``soft-max(v_U . v_T / tau)``; the items' side v_T is computed
    once after training, the user's side by one pass a turn. :meth:`candidate_scores` and :meth:`write` rank candidate
    lists by their titles.

    The paper publishes neither code nor constants; what is inferred is said in docs/rsllm.md. Every prefix of a window
    is trained at once (train.py); both stages see the same data. Stars and wishes in words are not read.
    """

    config_class: ClassVar[type[Config]] = RSLLMConfig
    config: RSLLMConfig
    name = "rsllm"
    row_wise = True

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._given: SASRec | None = None
        self._prior: NDArray[np.float32] | None = None

    def fit(self, dataset: Dataset, draws: Draws, sasrec: SASRec | None = None) -> None:
        """Trains from scratch.

        Args:
            dataset: Items and ratings.
            draws: All luck.
            sasrec: One that was fitted to the same data with the same draws already; None fits one.

        Raises:
            RecsimError: If its settings are not those that this recommender would give it.
        """
        if sasrec is not None and sasrec.config != self._sasrec_config():
            raise RecsimError(
                "The SASRec that was handed over has other settings than RSLLM's own. Put its config in "
                "RSLLMConfig(sasrec=...), with the same validation_users and device in both."
            )
        self._given = sasrec
        super().fit(dataset, draws)

    def learn(self, dataset: Dataset, draws: Draws) -> None:
        """Trains SASRec, then the language model in two stages, then chooses the weight of the fusion."""
        c, titles = self.config, [str(title) for title in dataset.catalog.title]
        parts = Parts(self.fitting, c.model_dump(mode="json"))
        self.sasrec, self._given = self._given or self._conventional(dataset, draws, parts), None
        scratch = c.backbone == SCRATCH
        tokenizer = (
            prompts.scratch_tokenizer(titles, c.titles == "spelled", c.pieces)
            if scratch
            else prompts.hub_tokenizer(c.backbone, c.revision)
        )
        self.lexicon = prompts.make_lexicon(tokenizer, titles, c.title_tokens, scratch)
        embeddings = self.sasrec.item_embeddings
        self.model = self._made(tokenizer, shuffled(embeddings, draws) if c.shuffle_ids else embeddings, draws)
        known, users, targets = held_out_last(dataset.histories(), c.validation_users, draws)
        past = known.take(users)
        self._train(known, past, targets, draws, parts)
        parts.remove(["sasrec", "stage1", "stage2"])
        self._prior = None
        self.read_items()
        self._choose_weight(past, targets)

    def _sasrec_config(self) -> SASRecConfig:
        # The same draws and number hold out the same users, so the weight of the fusion is chosen on what neither saw.
        ours = {"validation_users": self.config.validation_users, "device": self.config.device}
        return self.config.sasrec.model_copy(update=ours)

    def _conventional(self, dataset: Dataset, draws: Draws, parts: Parts) -> SASRec:
        made = SASRec(self._sasrec_config())
        made.n_items = dataset.n_items
        found = parts.finished("sasrec")
        if found is not None:
            made.set_arrays(found[0])
            return made
        made.fitting = parts.fitting()
        made.fit(dataset, draws)
        parts.finish("sasrec", made.arrays(), made.log)
        return made

    def _made(self, vocabulary: Any, embeddings: FloatArray, draws: Draws) -> UnifiedModel:
        seed = int(draws.keys("rsllm-weights", 0)[0] >> np.uint64(1))
        end, tokens = self.lexicon.end, self.lexicon.title_tokens()
        return make_model(self.config, vocabulary, embeddings, end, tokens, seed).to(device_of(self.config.device))

    def _train(self, known: Histories, past: Histories, targets: IntArray, draws: Draws, parts: Parts) -> None:
        c, self.log = self.config, []
        popularity = np.bincount(known.items, minlength=self.n_items)
        items, _ = past.last(c.history, self.n_items)

        def steps(epoch: int) -> Iterator[Batch]:
            cut = windows(known, c.history, c.batch_size, self.n_items, draws, epoch)
            for number, (inputs, following) in enumerate(cut):
                rows = rows_of(inputs, following, self.n_items)
                yield make_batch(rows, popularity, c.negatives, draws, epoch * 1_000_003 + number)

        def validate() -> float:
            if not len(targets):
                return 0.0
            if c.weight_ut:
                self.read_items()
                return mean_ndcg(self.towers(items), past, targets)
            pairs = [np.append(row, target) for row, target in zip(self._rows(items), targets, strict=True)]
            return -float(losses_of(self.model, self.lexicon, c, make_batch(pairs, popularity, 0, draws, 0)).total)

        # Without titles every item looks the same in stage 1, so there is nothing to learn in it.
        first = 0 if c.channels == "id" else c.stage1_epochs
        for stage, epochs in ((1, first), (2, c.epochs)):
            if epochs:
                if stage == 2 and c.channels != "text":
                    self.model.unify()
                self.log += self._stage(stage, epochs, epochs / (first + c.epochs), steps, validate, draws, parts)
        self.model.eval()

    def _stage(
        self, stage: int, epochs: int, share: float, steps: Callable[[int], Iterator[Batch]],
        validate: Callable[[], float], draws: Draws, parts: Parts,
    ) -> list[dict[str, float]]:  # fmt: skip
        """One stage of the training, or what is kept of it; its log goes on where the last one's ended."""
        c, name = self.config, f"stage{stage}"
        found = parts.finished(name)
        if found is not None:
            self._set_weights(found[0])
            return found[1]
        minutes = None if c.minutes is None else c.minutes * share
        settings = c.model_copy(update={"epochs": epochs, "minutes": minutes})
        log = train(self.model, settings, parts.fitting(), steps, self._loss, validate, draws)
        before = self.log[-1] if self.log else {"epoch": 0, "seconds": 0.0}
        log = [
            {**entry, "stage": stage, **{k: entry[k] + before[k] for k in ("epoch", "seconds")}} for entry in log
        ]  # fmt: skip
        parts.finish(name, self._weights(), log)
        return log

    def _weights(self) -> Arrays:
        return {name: array_of(weight) for name, weight in trainable(self.model)} | {
            "scale": array_of(self.model.scale)
        }

    def _set_weights(self, arrays: Arrays) -> None:
        with torch.no_grad():
            for name, weight in [*trainable(self.model), ("scale", self.model.scale)]:
                weight.copy_(torch.from_numpy(arrays[name]))

    def _loss(self, batch: Batch) -> torch.Tensor:
        return losses_of(self.model, self.lexicon, self.config, batch).total

    def read_items(self) -> None:
        """Computes the items' vectors, v_T; :meth:`fit` has done so."""
        self.item_vectors = rank.item_vectors(self.model, self.lexicon, self.config.channels != "id")

    def _choose_weight(self, past: Histories, targets: IntArray) -> None:
        """The weight with the highest nDCG@10 on the validation users, the lowest of equals."""
        weight = self.config.fusion_weight
        if weight is None and len(targets):
            items, _ = past.last(max(self.config.history, self.config.sasrec.max_length), self.n_items)
            conventional, towers = self.conventional(items), log_softmax(self.towers(items))
            found = [mean_ndcg(conventional + w * towers, past, targets) for w in WEIGHTS]
            weight = WEIGHTS[int(np.argmax(found))]
        self.fusion_weight = 1.0 if weight is None else weight

    def _rows(self, history: IntArray) -> list[IntArray]:
        return prompts.history_rows(history, self.n_items, self.config.history)

    def towers(self, history: IntArray) -> NDArray[np.float32]:
        """Scores of the two towers alone, ``v_U . v_T / tau``, float32 (N, I), out of histories (N, L)."""
        c, rows = self.config, self._rows(history)
        users = rank.user_vectors(self.model, self.lexicon, rows, c.channels != "id", c.pooling)
        n, tau = len(rows), float(self.model.tau.detach())
        found = np.empty((n, self.n_items), np.float32)
        for start in range(0, n, rank.ROWS):
            block = users[(start + np.arange(rank.ROWS)) % n]
            stop = min(start + rank.ROWS, n)
            found[start:stop] = (block @ self.item_vectors.T)[: stop - start] / tau
        return found

    def conventional(self, history: IntArray) -> NDArray[np.float32]:
        """Log-probabilities of SASRec, float32 (N, I), out of histories (N, L)."""
        n = len(history)
        found = np.empty((n, self.n_items), np.float32)
        for start in range(0, n, rank.ROWS):
            stop = min(start + rank.ROWS, n)
            block = history[(start + np.arange(rank.ROWS)) % n, -self.config.sasrec.max_length :]
            found[start:stop] = self.sasrec._scores(block)[: stop - start]
        return log_softmax(found)

    def scores(self, obs: ObservationBatch) -> FloatArray:
        """Fused log-probabilities, float32 (N, I), up to a constant of the user; all 0 without a history."""
        towers = log_softmax(self.towers(obs.history))
        found = self.conventional(obs.history) + np.float32(self.fusion_weight) * towers
        found[(obs.history == self.n_items).all(axis=1)] = 0.0
        return found

    def candidate_scores(self, history: IntArray, candidates: IntArray, form: rank.Form = "pmi") -> FloatArray:
        """Candidates by the likelihood of their titles, float32 (N, M).

        Args:
            history: int (N, L), padded in front with ``n_items``.
            candidates: int (N, M), items.
            form: See :func:`recsim_env.recommenders.rsllm.rank.candidate_scores`.

        Raises:
            RecsimError: If the recommender knows no titles.
        """
        self._needs_titles()
        if form == "pmi" and self._prior is None:
            self._prior = rank.prior_log_likelihoods(self.model, self.lexicon)
        return rank.candidate_scores(self.model, self.lexicon, self._rows(history), candidates, form, self._prior)

    def write(self, history: IntArray, candidates: IntArray | None = None) -> IntArray:
        """One title per user, written greedily among the candidates' titles or the whole catalogue's.

        Returns:
            Items int64 (N,), ``n_items`` where nothing could be written.

        Raises:
            RecsimError: If the recommender knows no titles.
        """
        self._needs_titles()
        rows = self._rows(history)
        if candidates is None:
            tries = [rank.Trie(self.lexicon, np.arange(self.n_items))] * len(rows)
        else:
            tries = [rank.Trie(self.lexicon, own[own < self.n_items]) for own in candidates]
        return rank.write_titles(self.model, self.lexicon, rows, tries)

    def _needs_titles(self) -> None:
        if self.config.channels == "id":
            raise RecsimError("RSLLM with channels 'id' has learned no titles. Choose 'both' or 'text'.")

    def arrays(self) -> Arrays:
        """Trained weights, the catalogue in tokens, the items' vectors, and SASRec."""
        weights = {f"weights.{name}": array for name, array in self._weights().items()}
        lexicon = {f"lexicon.{name}": np.asarray(getattr(self.lexicon, name)) for name in self.lexicon.__slots__}
        size = self.model.language.get_input_embeddings().weight.shape[0]
        numbers = {
            "fusion_weight": np.array(self.fusion_weight),
            "unified": np.array(self.model.unified),
            "vocabulary": np.array(size),
            "ids": array_of(self.model.items),
        }
        sasrec = {f"sasrec.{name}": array for name, array in self.sasrec.arrays().items()}
        return weights | lexicon | numbers | sasrec | {"item_vectors": self.item_vectors}

    def set_arrays(self, arrays: Arrays) -> None:
        """Takes what :meth:`arrays` gave; a Hugging Face backbone is loaded again, and its trained weights set."""
        groups: dict[str, Arrays] = {"weights": {}, "lexicon": {}, "sasrec": {}}
        for name, array in arrays.items():
            group, _, rest = name.partition(".")
            if rest:
                groups[group][rest] = array
        lexicon = groups["lexicon"]
        self.lexicon = prompts.Lexicon(lexicon["titles"], lexicon["user"], lexicon["item"], int(lexicon["end"]))
        vocabulary = _Vocabulary(int(arrays["vocabulary"]), self.lexicon.end, self.lexicon.end)
        self.model = self._made(vocabulary, arrays["ids"], Draws(0))
        self.model.items.copy_(torch.from_numpy(arrays["ids"]))
        self._set_weights(groups["weights"])
        self.model.unified, self.fusion_weight = bool(arrays["unified"]), float(arrays["fusion_weight"])
        self.model.eval()
        self.item_vectors = arrays["item_vectors"]
        self.sasrec = SASRec(self._sasrec_config())
        self.sasrec.n_items = self.n_items
        self.sasrec.set_arrays(groups["sasrec"])


def log_softmax(logits: FloatArray) -> NDArray[np.float32]:
    """Log-probabilities along the last axis, float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def array_of(tensor: torch.Tensor) -> NDArray[np.float32]:
    """A tensor as an array."""
    return np.asarray(tensor.detach().float().cpu().numpy())
