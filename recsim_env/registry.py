"""Plug-ins by name, loaded late.

An entry is an object or a string ``"module:attribute"`` that is imported when it is first asked for. Other
distributions add entries through entry-point groups (``recsim_env.recommenders`` and so on).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from recsim_env.errors import ContractError, DuplicateNameError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named plug-ins of one kind.

    Args:
        kind: Word for error messages, for example ``"recommender"``.
        group: Entry-point group of third parties.
        entries: Name to ``"module:attribute"``.
        base: ``"module:attribute"`` of the class that class entries must extend, or None.
    """

    def __init__(self, kind: str, group: str, entries: dict[str, str], base: str | None = None) -> None:
        self.kind, self.group, self.base = kind, group, base
        self._entries: dict[str, Any] = dict(entries)
        self._found = False

    def _discover(self) -> None:
        if not self._found:
            for point in entry_points(group=self.group):
                self.add(point.name, point.value)
            self._found = True

    def add(self, name: str, entry: Any) -> None:
        """Adds a plug-in.

        Raises:
            DuplicateNameError: If the name is taken by something else.
        """
        if self._entries.get(name, entry) != entry:
            raise DuplicateNameError(self.kind, name)
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All names, sorted."""
        self._discover()
        return sorted(self._entries)

    def get(self, name: str, where: str = "") -> T:
        """The plug-in of that name, imported if need be.

        Raises:
            UnknownNameError: If there is none; near names are suggested.
            ContractError: If a class entry does not extend the base class.
        """
        self._discover()
        if name not in self._entries:
            remedy = f"'recsim-env list {self.kind.replace(' ', '-')}s' shows all."
            raise UnknownNameError(self.kind, name, self._entries, where, remedy)
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = _load(entry)
        if self.base is not None and isinstance(entry, type) and not issubclass(entry, _load(self.base)):
            raise ContractError(f"{self.kind} {name!r} ({entry!r}) must extend {self.base.replace(':', '.')}.")
        return entry

    def summary(self, name: str) -> str:
        """First line of the plug-in's docstring."""
        return (getattr(self.get(name), "__doc__", "") or "").strip().split("\n")[0]


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


_HERE = "recsim_env.recommenders"

recommenders: Registry[Any] = Registry(
    "recommender",
    "recsim_env.recommenders",
    {
        "uniform": f"{_HERE}.uniform:Uniform",
        "popularity": f"{_HERE}.popularity:Popularity",
        "item-knn": f"{_HERE}.item_knn:ItemKNN",
        "ease": f"{_HERE}.ease:EASE",
        "als": f"{_HERE}.als:ALS",
        "cooccurrence": f"{_HERE}.cooccurrence:Cooccurrence",
        "text-similarity": f"{_HERE}.text_similarity:TextSimilarity",
        "sasrec": f"{_HERE}.sasrec:SASRec",
        "llm-ranker": f"{_HERE}.llm_ranker:LLMRanker",
        "conversational": f"{_HERE}.conversational:Conversational",
        "rsllm": f"{_HERE}.rsllm.recommender:RSLLM",
        "slate-pg": f"{_HERE}.slate_policy:SlatePolicyNetwork",
        "slateq": f"{_HERE}.slate_q:SlateQ",
        "ppo": f"{_HERE}.gym_policy:PPOPolicy",
        "a2c": f"{_HERE}.gym_policy:A2CPolicy",
        "dqn": f"{_HERE}.gym_policy:DQNPolicy",
        "maskable-ppo": f"{_HERE}.gym_policy:MaskablePPOPolicy",
    },
    base="recsim_env.interfaces:Recommender",
)
"""Recommenders by name."""

learners: Registry[Any] = Registry(
    "learner",
    "recsim_env.learners",
    {
        "slate-pg": "recsim_env.training.policy_gradient:SlatePolicyGradient",
        "slateq": "recsim_env.training.slateq:SlateQLearner",
        "rsllm": "recsim_env.training.grpo:GRPO",
        "conversational": "recsim_env.training.grpo:GRPO",
        "ppo": "recsim_env.training.sb3:PPOLearner",
        "a2c": "recsim_env.training.sb3:A2CLearner",
        "dqn": "recsim_env.training.sb3:DQNLearner",
        "maskable-ppo": "recsim_env.training.sb3:MaskablePPOLearner",
    },
    base="recsim_env.training.learner:Learner",
)
"""What trains a recommender on simulated users, by the recommender's name."""

user_models: Registry[Any] = Registry(
    "user",
    "recsim_env.users",
    {
        "behavioral": "recsim_env.agents.behavioral:BehavioralUsers",
        "llm": "recsim_env.agents.llm:LLMUsers",
        "hybrid": "recsim_env.agents.hybrid:HybridUsers",
    },
    base="recsim_env.interfaces:UserModel",
)
"""User models by name."""

engines: Registry[Any] = Registry(
    "engine",
    "recsim_env.engines",
    {
        "vllm": "recsim_env.engine.vllm:VllmEngine",
        "openai": "recsim_env.engine.openai:OpenAIEngine",
        "transformers": "recsim_env.engine.transformers:TransformersEngine",
        "replay": "recsim_env.engine.replies:ReplayEngine",
    },
    base="recsim_env.interfaces:Engine",
)
"""Language-model engines by name."""

embedders: Registry[Any] = Registry(
    "embedder",
    "recsim_env.embedders",
    {
        "hashed-ngrams": "recsim_env.engine.embed:HashedNgrams",
        "sentence-transformers": "recsim_env.engine.embed:SentenceTransformerEmbedder",
        "endpoint": "recsim_env.engine.embed:EndpointEmbedder",
    },
    base="recsim_env.interfaces:Embedder",
)
"""Text embedders by name."""

rewards: Registry[Any] = Registry(
    "reward",
    "recsim_env.rewards",
    {name: f"recsim_env.rewards:{name}" for name in ("clicks", "watch", "rating", "likes", "stay", "retention")},
)
"""Reward functions by name."""

datasets: Registry[Any] = Registry(
    "dataset", "recsim_env.datasets", {"movietweetings": "recsim_env.data.movietweetings:load_movietweetings"}
)
"""Built-in data sets by name: functions without arguments that give a Dataset."""
