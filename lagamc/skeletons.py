"""Label descriptions without a chat model: from names, and from the words that set a label's texts apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import chi2

from lagamc.data import Example

WORDS = 10
_WORD = r"(?u)\b[^\W\d_]{3,}\b"
_ADDRESS = re.compile(r"https?://\S+|www\.\S+")


def readable(name: str) -> str:
    """A label's name as it stands in a sentence's beginning: `wrong_item` is `Wrong item`."""
    words = " ".join(name.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def skeleton_descriptions(names: Sequence[str], examples: Sequence[Example]) -> dict[str, str]:
    """A description of each label: its name, and the words that tell its texts from the others.

    Args:
        names: of the labels.
        examples: training examples with labels.
    """
    words = telling_words(names, examples)
    descriptions: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for name in names:
        title = readable(name)
        seen[title.casefold()] += 1
        number = seen[title.casefold()]  # of names that read alike, such as `a_b` and `a b`
        theirs = ", ".join(words.get(name) or [title.lower()])
        descriptions[name] = f"{title if number == 1 else f'{title} ({number})'}: texts about {theirs}"
    return descriptions


def telling_words(names: Sequence[str], examples: Sequence[Example], count: int = WORDS) -> Mapping[str, list[str]]:
    """For each label the words more frequent in its texts than elsewhere, by chi2 of their TF-IDF weights."""
    texts = [_ADDRESS.sub(" ", example.text) for example in examples]
    for rarest in (2, 1):  # a word of one text alone says little, and may name a person
        try:
            vectorizer = TfidfVectorizer(
                token_pattern=_WORD, stop_words="english", sublinear_tf=True, min_df=rarest, max_df=0.5
            )
            weights = vectorizer.fit_transform(texts)
            break
        except ValueError:  # no word is left
            continue
    else:
        return {}
    vocabulary = vectorizer.get_feature_names_out()
    found = {}
    for name in names:
        theirs = np.array([name in example.labels for example in examples])
        if theirs.all() or not theirs.any():
            continue
        strength = np.nan_to_num(chi2(weights, theirs)[0])
        more = np.asarray(weights[theirs].mean(axis=0) > weights[~theirs].mean(axis=0)).ravel()
        ranked = np.argsort(-strength * more, kind="stable")
        own = set(readable(name).lower().split())
        found[name] = [str(vocabulary[i]) for i in ranked if more[i] and vocabulary[i] not in own][:count]
    return found
