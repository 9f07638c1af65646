# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
r"""Which metric catches which cheat: every metric on real texts, and on texts that no reader would take for good ones.

```
python benchmarks/metric_failures.py --scorer path/to/scorer --text valid.txt --train-text train.txt
```

`--scorer` is any causal language model with its tokenizer, `--text` a file of held-out text and `--train-text` one of
training text, both with lines `<|endoftext|>` between their documents. All texts are cut to `--max-tokens` tokens of
the scorer, and shorter documents are left out, because entropy and repetition depend on the length.

Some sets of real texts show by how much a metric varies from set to set. Then come the cheats, each a set of as many
texts:

- *periodic*: 8 of the 100 most frequent tokens in random order, again and again;
- *shuffled*: real texts with the words of each in random order;
- *one text*: copies of the real text that the scorer finds most likely;
- *training set*: documents of the training text.

A value is **caught** if it is worse than that of every real set, by more than the range of the real sets; in the same
way it is *(better)* if it is better than real text: there, the cheat wins. Worse is: perplexity and bits per byte high,
entropy low, repetition high, distinct-n low, self-BLEU high, MAUVE low, share memorized high.

Then infilling, where half of the tokens of real texts were taken out, under a uniform source over the tokens of the
set: who changes nothing, and who always says the most frequent token.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from reporting import describe_machine, format_cell, markdown, write_json

from transformers_fsdfm.metrics.diversity.functional import diversity
from transformers_fsdfm.metrics.generative_perplexity.functional import generative_perplexity
from transformers_fsdfm.metrics.infilling_accuracy.functional import infilling_accuracy
from transformers_fsdfm.metrics.mauve.functional import compare, reference_features, shuffle_words, text_features
from transformers_fsdfm.metrics.memorization.functional import NgramIndex, memorization
from transformers_fsdfm.metrics.repetition.functional import repetition
from transformers_fsdfm.metrics.scorer import Scorer
from transformers_fsdfm.metrics.token_entropy.functional import token_entropy
from transformers_fsdfm.trainer.data import read_documents


PERIOD, FREQUENT_TOKENS = 8, 100
# The columns of the table, and whether a high value is the better one.
HIGH_IS_GOOD = {
    "perplexity": False,
    "bits per byte": False,
    "entropy (nats)": True,
    "rep-4": False,
    "longest repeat (tokens)": False,
    "distinct-4": True,
    "self-BLEU": False,
    "MAUVE": True,
    "memorized 13-grams": False,
}


class TextSet(NamedTuple):
    """
    Attributes:
        name (`str`): what the texts are.
        is_real (`bool`): whether nobody cheats.
        texts (`list[str]`): all of about the same length.
    """

    name: str
    is_real: bool
    texts: list[str]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", required=True, help="folder or name of a causal language model")
    parser.add_argument("--text", required=True, help="file of held-out text")
    parser.add_argument("--train-text", required=True, help="file of training text")
    parser.add_argument("--num-texts", type=int, default=100, help="texts in each set")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens of each text")
    parser.add_argument("--real-sets", type=int, default=3, help="sets of real texts")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write machine, options and values to this file")
    return parser.parse_args()


def cut_documents(path: str, scorer: Scorer, count: int, max_tokens: int, random: np.random.Generator) -> list[str]:
    """The beginnings, `max_tokens` long, of as many long enough documents, drawn at random without repetition."""
    documents = [row["text"] for row in read_documents([path])]
    texts = []
    for index in random.permutation(len(documents)):
        ids = scorer.encode([documents[index]])[0].ids
        if len(ids) >= max_tokens:
            texts.append(scorer.tokenizer.decode(ids[:max_tokens], clean_up_tokenization_spaces=False))
        if len(texts) == count:
            return texts
    raise SystemExit(f"{path} has {len(texts)} documents of {max_tokens} tokens or more, but {count} are needed")


def periodic_texts(real: list[str], scorer: Scorer, max_tokens: int, random: np.random.Generator) -> Iterator[str]:
    """A few of the most frequent tokens, in an order of its own for each text, again and again."""
    ids, counts = np.unique([token for text in scorer.encode(real) for token in text.ids], return_counts=True)
    frequent = ids[np.argsort(-counts, kind="stable")][:FREQUENT_TOKENS]
    for _ in real:
        period = random.permutation(frequent)[:PERIOD].tolist()
        ids_of_text = (period * -(-max_tokens // len(period)))[:max_tokens]
        yield scorer.tokenizer.decode(ids_of_text, clean_up_tokenization_spaces=False)


def most_likely(texts: list[str], scorer: Scorer, batch_size: int) -> str:
    nll = generative_perplexity(texts, scorer, batch_size=batch_size)["per_sequence"]["nll"]
    return texts[int(np.argmin(nll))]


def cheats(real: list[str], scorer: Scorer, args: argparse.Namespace, random: np.random.Generator) -> Iterator[TextSet]:
    """The sets of texts that ought to be caught."""
    yield TextSet("periodic", False, list(periodic_texts(real, scorer, args.max_tokens, random)))
    yield TextSet("shuffled", False, list(shuffle_words(real, random)))
    yield TextSet("one text", False, [most_likely(real, scorer, args.batch_size)] * len(real))
    training = cut_documents(args.train_text, scorer, len(real), args.max_tokens, random)
    yield TextSet("training set", False, training)


def measure(texts: list[str], scorer: Scorer, references: Any, index: NgramIndex, batch_size: int) -> dict[str, float]:
    """All metrics of a set; those of tokens on the tokens of the scorer."""
    ids = [text.ids for text in scorer.encode(texts)]
    perplexity = generative_perplexity(texts, scorer, batch_size=batch_size, progress=True)
    repeats, differences = repetition(ids), diversity(ids)
    similarity = compare(text_features(texts, scorer, batch_size=batch_size, progress=True), references)
    return {
        "perplexity": perplexity["perplexity"],
        "bits per byte": perplexity["bits_per_byte"],
        "entropy (nats)": token_entropy(ids)["nats"],
        "rep-4": repeats["rep_4"],
        "longest repeat (tokens)": repeats["longest_repeat"],
        "distinct-4": differences["distinct_4"],
        "self-BLEU": differences["self_bleu"],
        "MAUVE": similarity["mauve"],
        "memorized 13-grams": memorization(texts, index)["memorized_share"],
    }


def verdict(column: str, value: float, real_values: list[float]) -> str:
    """`caught`, `better` or nothing, as the docstring of this file says."""
    spread = max(real_values) - min(real_values)
    is_high, is_low = value > max(real_values) + spread, value < min(real_values) - spread
    if not (is_high or is_low):
        return ""
    return "better" if is_high == HIGH_IS_GOOD[column] else "caught"


def table(sets: list[TextSet], values: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A row for each set, with the verdicts in the cells."""
    styles = {"": "{}", "caught": "**{}**", "better": "{} *(better)*"}
    rows = []
    for texts, row in zip(sets, values, strict=True):
        cells = {"texts": f"real, {texts.name}" if texts.is_real else texts.name}
        for column, value in row.items():
            real_values = [other[column] for one, other in zip(sets, values, strict=True) if one.is_real]
            style = "" if texts.is_real else verdict(column, value, real_values)
            cells[column] = styles[style].format(format_cell(value))
        rows.append(cells)
    return rows


def infilling_rows(texts: list[str], scorer: Scorer, random: np.random.Generator) -> list[dict[str, Any]]:
    """Accuracies of two who know nothing of the text, with half of its tokens taken out."""
    truth = [np.array(text.ids) for text in scorer.encode(texts)]
    vocabulary, counts = np.unique(np.concatenate(truth), return_counts=True)
    masks = [random.random(len(ids)) < 0.5 for ids in truth]
    initial = [np.where(mask, random.choice(vocabulary, len(ids)), ids) for ids, mask in zip(truth, masks, strict=True)]
    frequent = [np.where(mask, vocabulary[counts.argmax()], ids) for ids, mask in zip(truth, masks, strict=True)]
    rows = []
    for name, filled in (("changes nothing", initial), ("most frequent token", frequent)):
        result = infilling_accuracy(filled, truth, masks, initial)
        columns = ("raw_accuracy", "accuracy", "majority_accuracy", "excluded", "positions")
        rows.append({"infilling": name, **{column.replace("_", " "): result[column] for column in columns}})
    return rows


def main() -> None:
    args = parse_arguments()
    random = np.random.default_rng(args.seed)
    scorer = Scorer.load(args.scorer)
    needed = args.num_texts * (args.real_sets + 2)
    documents = cut_documents(args.text, scorer, needed, args.max_tokens, random)
    parts = [documents[first : first + args.num_texts] for first in range(0, needed, args.num_texts)]
    real = [TextSet(f"set {number}", True, texts) for number, texts in enumerate(parts[2:], start=1)]
    sets = [*real, *cheats(real[0].texts, scorer, args, random)]
    references = reference_features(parts[0] + parts[1], scorer, seed=args.seed, batch_size=args.batch_size)
    index = NgramIndex(row["text"] for row in read_documents([args.train_text]))
    values = [measure(texts.texts, scorer, references, index, args.batch_size) for texts in sets]
    infilling = infilling_rows(real[0].texts, scorer, random)
    ends = compare(references.second_half, references)
    print(
        f"{describe_machine()}\nscorer {scorer.name} ({scorer.settings['dtype']}), seed {args.seed}, sets of ", end=""
    )
    print(f"{args.num_texts} texts of {args.max_tokens} tokens, {ends['settings']['num_buckets']} MAUVE buckets\n")
    print(markdown(table(sets, values)))
    print(f"\nMAUVE's ends: human {ends['mauve_human']:.3f}, shuffled {ends['mauve_shuffled']:.3f}\n")
    print(markdown(infilling))
    if args.json:
        rows = [{"texts": one.name, "is_real": one.is_real, **row} for one, row in zip(sets, values, strict=True)]
        write_json(args.json, vars(args), [*rows, {"mauve_settings": ends["settings"]}, *infilling])


if __name__ == "__main__":
    main()
