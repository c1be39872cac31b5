"""A tiny Llama that already answers in the right format: what the local server trains in tests.

LoRA on a randomly initialised model learns nothing useful, so the model is pretrained here: a
tokenizer of our own with Llama 3's chat tokens, and a Llama of under a million parameters that
reads composed conversations in the project's chat prompt and answers. It is taught by a poor
teacher: some answers are another conversation's, most name a category or two too many, and one in
four adds `none` to others, which the environment calls malformed. So it knows the form of an answer
well and the task only so far: supervised and reinforcement learning have something to do.

    python -m memroute_agents.tinker.local_server.tiny_model OUT_DIR
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from memroute_env.conversation import Example, write_examples
from memroute_env.errors import MissingDependencyError
from memroute_env.prompt import answer_text, build_messages
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["TinyModelConfig", "build_tiny_model", "compose_splits", "tiny_recipe"]

CHAT_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
WORDS = r" ?\w+(?:[._]\w+)*| ?[^\w\s]+|\s+"
"""How text is cut before merging: a category id stays in one piece, so answers are short."""


@dataclass(frozen=True)
class TinyModelConfig:
    """Size and pretraining; the default takes about a minute and a half on two cores."""

    vocab_size: int = 3000
    hidden_size: int = 64
    layers: int = 3
    heads: int = 4
    intermediate_size: int = 192
    examples: int = 12000
    steps: int = 240
    batch_size: int = 64
    learning_rate: float = 3e-3
    noise: float = 0.1
    """Share of pretraining answers that are another conversation's."""
    extra: tuple[float, float, float] = (0.15, 0.45, 0.4)
    """Shares of pretraining answers that name no, one and two categories too many."""
    invalid: float = 0.25
    """Share of them that add the exclusive category, which makes an answer malformed."""
    text_tokens: int = 6
    text_weight: float = 0.1
    """How many of a prompt's tokens are learnt too, drawn anew each time, and their loss weight."""
    seed: int = 0


def tiny_recipe() -> Any:
    """Short conversations: what a tiny model on two cores can read quickly."""
    from memroute_data_gen.compose import Recipe

    return Recipe(
        none=0.15, one=0.6, two=0.25, three=0.0, distractors=(0.85, 0.15, 0.0),
        second_unit=0.0, opening=0.0, closing=0.1, max_turns=4,
    )  # fmt: skip


def compose_splits(folder: str | os.PathLike[str], sizes: dict[str, int], seed: int = 7) -> Path:
    """Write `train.jsonl`, `validation.jsonl`, … of short composed conversations.

    Args:
        folder: Where to; created.
        sizes: Split to number of examples.
        seed: See `Composer`.
    """
    from memroute_data_gen.compose import Composer

    for split, size in sizes.items():
        compose = Composer(seed, split, tiny_recipe())
        write_examples(Path(folder) / f"{split}.jsonl", (compose(i) for i in range(size)))
    return Path(folder)


def render_chat(messages: Sequence[Any]) -> str:
    """The chat as Llama 3 writes it, up to where the assistant answers."""
    turns = (
        f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content']}<|eot_id|>"
        for m in messages
    )
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    return "<|begin_of_text|>" + "".join(turns) + header


def train_tokenizer(examples: Sequence[Example], taxonomy: Taxonomy, vocab_size: int) -> Any:
    """A byte-level BPE tokenizer of the corpus, as a transformers tokenizer."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [e.conversation.to_text() for e in examples]
    names = [f"{c}, {c}" for c in taxonomy.all_ids] * 100
    chat = ["system user assistant\n\n\n"] * 100
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CHAT_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *names, *chat], trainer)
    # The instructions are the same in every prompt. A model this small gets nothing from reading
    # them word by word, so each of their lines is one token: prompts become four times shorter.
    asked = build_messages(examples[0].conversation, taxonomy)
    lines = [*asked[0]["content"].split("\n"), "Conversation:", "Memory categories:"]
    lines = [line + "\n" for line in lines] + lines
    known = [AddedToken(line, normalized=False) for line in dict.fromkeys(lines) if line.strip()]
    tokenizer.add_tokens(known)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|end_of_text|>",
    )


def build_tiny_model(
    out_dir: str | os.PathLike[str], config: TinyModelConfig | None = None, *, report: Any = print
) -> Path:
    """Pretrain the model into `out_dir`, unless the same one already lies there.

    Args:
        out_dir: A folder; what the model depends on is kept beside it in `tiny.json`.
        config: Size and pretraining.
        report: Told how it goes, one line at a time.

    Returns:
        The folder: config, tokenizer, safetensors, as a local `--base-model`.

    Raises:
        MissingDependencyError: Without torch, transformers or tokenizers.
    """
    config = config or TinyModelConfig()
    out = Path(out_dir)
    code = Path(__file__).read_bytes()
    # Through JSON, so that what is read back compares equal (a tuple comes back as a list).
    stamp = json.loads(json.dumps({**asdict(config), "code": sha256(code).hexdigest()}))
    if (out / "tiny.json").is_file() and json.loads((out / "tiny.json").read_text()) == stamp:
        return out
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _pretrain(partial, config, report)
    (partial / "tiny.json").write_text(json.dumps(stamp, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def _pretrain(out: Path, config: TinyModelConfig, report: Any) -> None:
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise MissingDependencyError(error.name or "torch", "tinker") from None
    from memroute_data_gen.compose import Composer

    started = time.monotonic()
    # Matrices this small gain nothing from threads, and lose a lot to them on a busy machine.
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    rng = Random(config.seed)
    taxonomy = load_taxonomy("marketing")
    compose = Composer(config.seed, "train", tiny_recipe())
    examples = [compose(i) for i in range(config.examples)]
    tokenizer = train_tokenizer(examples[:4000], taxonomy, config.vocab_size)
    chats = [render_chat(build_messages(e.conversation, taxonomy)) for e in examples]
    answers = [answer_text(taxonomy.mask(e.labels.categories), taxonomy) for e in examples]
    rows: list[tuple[list[int], int]] = []
    for chat, answer in zip(chats, answers, strict=True):
        said = rng.choice(answers) if rng.random() < config.noise else answer
        others = [c.id for c in taxonomy.storing if c.id not in said]
        if said != taxonomy.exclusive.id:
            count = rng.choices((0, 1, 2), config.extra)[0]
            beside = [taxonomy.exclusive.id] if rng.random() < config.invalid else []
            said = ", ".join([said, *rng.sample(others, count), *beside])
        prompt = tokenizer.encode(chat, add_special_tokens=False)
        reply = tokenizer.encode(said + "<|eot_id|>", add_special_tokens=False)
        rows.append((prompt + reply, len(prompt)))
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": "sdpa",
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**shape))
    gold = [taxonomy.mask(e.labels.categories) for e in examples]
    _give_a_start(model, tokenizer, rows, gold, taxonomy)
    size = sum(p.numel() for p in model.parameters())
    report(
        f"tiny model: {size:,} parameters, vocabulary {len(tokenizer)}, "
        f"{sum(at for _, at in rows) / len(rows):.0f} tokens a prompt"
    )
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, (0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    for step in range(config.steps):
        batch = rng.sample(rows, config.batch_size)
        length = max(len(tokens) for tokens, _ in batch)
        ids = torch.full((len(batch), length), tokenizer.pad_token_id)
        mask = torch.zeros((len(batch), length), dtype=torch.long)
        weight = torch.zeros((len(batch), length))
        for row, (tokens, answer_at) in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
            weight[row, torch.randperm(answer_at)[: config.text_tokens]] = config.text_weight
            weight[row, answer_at : len(tokens)] = 1.0
        hidden = model.model(ids, attention_mask=mask).last_hidden_state[:, :-1]
        # The vocabulary is the expensive part: only where there is a loss.
        chosen = weight[:, 1:] > 0
        losses = torch.nn.functional.cross_entropy(
            model.lm_head(hidden[chosen]), ids[:, 1:][chosen], reduction="none"
        )
        loss = (losses * weight[:, 1:][chosen]).sum() / len(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            spent = time.monotonic() - started
            report(f"step {step + 1}/{config.steps}: loss {loss.item():.3f} ({spent:.0f} s)")
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)


def _give_a_start(
    model: Any, tokenizer: Any, rows: Sequence[tuple[list[int], int]], gold: Any, taxonomy: Taxonomy
) -> None:
    """Begin where counting gets one: a word's embedding says which categories it speaks for.

    The first dimensions of the embeddings hold each token's pointwise mutual information with each
    category (the exclusive one included), those of a category's own token a one, and the first
    layer begins by averaging what it reads. From random weights the same takes thousands of steps.
    """
    import torch

    ids = taxonomy.all_ids
    labels = torch.tensor(
        [[float(bool(m & taxonomy.bits[c])) if m else float(not taxonomy.bits[c]) for c in ids]
         for m in gold]
    )  # fmt: skip
    together = torch.zeros(len(tokenizer), len(ids))
    seen = torch.zeros(len(tokenizer), 1)
    for (tokens, answer_at), label in zip(rows, labels, strict=True):
        words = torch.tensor(sorted(set(tokens[:answer_at])))
        together[words] += label
        seen[words] += 1
    share = labels.mean(0, keepdim=True)
    information = ((together + 4 * share) / (seen + 4) / share).log().clamp(-2, 3)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight.normal_(0, 0.1)
        weight[:, : len(ids)] = 0.5 * information
        for column, category in enumerate(ids):
            for text in (category, f" {category}"):
                token = tokenizer.encode(text, add_special_tokens=False)[0]
                weight[token, : len(ids)] = 0
                weight[token, column] = 2
        attention = model.model.layers[0].self_attn
        attention.v_proj.weight.copy_(torch.eye(len(attention.v_proj.weight)))
        attention.o_proj.weight.copy_(torch.eye(len(attention.o_proj.weight)))


if __name__ == "__main__":
    build_tiny_model(sys.argv[1])
