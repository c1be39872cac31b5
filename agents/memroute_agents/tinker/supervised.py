"""Supervised fine-tuning data for tinker-cookbook: the answer is learnt, the prompt is not.

A datum is the chat prompt of a conversation with its gold answer in the canonical form; its loss
weights are positive on the answer's tokens (and the token that ends it) and sum to 1. An example
longer than the window is left out whole, counted and named: nothing is cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import chz
import tinker
from tinker_cookbook.renderers import Message, Renderer, TrainOnWhat
from tinker_cookbook.supervised.data import conversation_to_datum
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder

from memroute_agents.tinker.envs import draw, fitting, make_renderer
from memroute_agents.tinker.lengths import LengthReport
from memroute_env.conversation import Example
from memroute_env.prompt import answer_text, build_messages
from memroute_env.taxonomy import Taxonomy

__all__ = ["RoutingSupervisedBuilder", "RoutingSupervisedDataset", "chat_messages", "make_datum"]


def chat_messages(example: Example, taxonomy: Taxonomy) -> list[Message]:
    """The chat of an example: system, user, and the gold answer."""
    answer = answer_text(taxonomy.mask(example.labels.categories), taxonomy)
    messages = [
        *build_messages(example.conversation, taxonomy),
        {"role": "assistant", "content": answer},
    ]
    return messages  # type: ignore[return-value]  # plain dicts are what renderers take


def chat_length(example: Example, taxonomy: Taxonomy, renderer: Renderer) -> int:
    """Tokens of the chat of an example, its answer included."""
    chat, _ = renderer.build_supervised_example(chat_messages(example, taxonomy))
    return chat.length


def make_datum(example: Example, taxonomy: Taxonomy, renderer: Renderer) -> tinker.Datum:
    """An example as a datum: input, next-token targets and loss weights."""
    return conversation_to_datum(
        chat_messages(example, taxonomy),
        renderer,
        max_length=None,
        train_on_what=TrainOnWhat.LAST_ASSISTANT_MESSAGE,
        reduction="mean",
    )


class RoutingSupervisedDataset(SupervisedDataset):
    """Batches of datums; batch i depends on (data, seed, i) alone, so a run can be resumed."""

    def __init__(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        renderer: Renderer,
        batches: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        """Draw `batches` batches from shuffled passes over the examples."""
        self.examples, self.taxonomy, self.renderer = examples, taxonomy, renderer
        self.batches, self.batch_size, self.seed = batches, batch_size, seed

    def __len__(self) -> int:
        """Number of batches."""
        return self.batches

    def get_batch(self, index: int) -> list[tinker.Datum]:
        """The datums of batch `index`."""
        chosen = draw(len(self.examples), index * self.batch_size, self.batch_size, self.seed)
        return [make_datum(self.examples[i], self.taxonomy, self.renderer) for i in chosen]

    def set_epoch(self, seed: int = 0) -> None:
        """Nothing: the order is fixed by the dataset's own seed."""


@chz.chz
class RoutingSupervisedBuilder(SupervisedDatasetBuilder):
    """Builds the training dataset of `supervised.train.Config`."""

    model_name: str
    renderer_name: str
    data: str = "marketing"
    split: str = "train"
    taxonomy: str | None = None
    steps: int = 100
    batch_size: int = 128
    max_length: int = 4096
    seed: int = 0

    def load(self) -> tuple[RoutingSupervisedDataset, LengthReport]:
        """The dataset, and which examples were too long for it."""
        examples, taxonomy, renderer, report = self._examples()
        return (
            RoutingSupervisedDataset(
                examples, taxonomy, renderer, self.steps, self.batch_size, self.seed
            ),
            report,
        )

    def datums(self, count: int) -> tuple[list[tinker.Datum], LengthReport]:
        """The first `count` examples of the split as datums, for measuring a loss."""
        examples, taxonomy, renderer, report = self._examples(count)
        return [make_datum(e, taxonomy, renderer) for e in examples], report

    def _examples(
        self, count: int | None = None
    ) -> tuple[Sequence[Example], Taxonomy, Renderer, LengthReport]:
        source = self.data, self.split, self.taxonomy, self.renderer_name, self.model_name
        examples, taxonomy, report = fitting(source, chat_length, self.max_length, count)
        return examples, taxonomy, make_renderer(self.renderer_name, self.model_name), report

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """The training dataset, and no other: validation has its own evaluator."""
        return self.load()[0], None
