"""What `inputs.dataset._target_` names in the tests."""

from collections.abc import Iterator

import numpy as np

IMAGES = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
LABELS = np.arange(5)


def rows(count: int = 5) -> list[np.ndarray]:
    return list(IMAGES[:count])


def arrays() -> dict[str, np.ndarray]:
    return {"x": IMAGES, "label": LABELS}


def pair() -> tuple[np.ndarray, np.ndarray]:
    return IMAGES, LABELS


def dicts() -> list[dict[str, object]]:
    return [
        {"x": x, "label": f"class {n}", "skipped": x} for x, n in zip(IMAGES, LABELS, strict=True)
    ]


def generator(count: int = 5) -> Iterator[dict[str, object]]:
    yield from dicts()[:count]


def endless() -> Iterator[np.ndarray]:
    while True:
        yield IMAGES[0]


def keras_style() -> list[tuple[dict[str, object], int]]:
    return [({"x": x}, int(n)) for x, n in zip(IMAGES, LABELS, strict=True)]


def tf_dataset(batch: int | None = None, repeat: bool = False) -> object:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(({"x": IMAGES}, LABELS))
    dataset = dataset.repeat() if repeat else dataset
    return dataset if batch is None else dataset.batch(batch)


def hugging_face() -> object:
    import datasets

    return datasets.Dataset.from_dict({"x": IMAGES.tolist(), "label": LABELS.tolist()})


def ragged() -> Iterator[dict[str, object]]:
    for length in (3, 0, 1):
        yield {"ids": list(range(length)), "mask": np.ones(length, bool)}


def in_order() -> list[tuple[object, object]]:
    return [(np.arange(2), np.ones(2, bool)), (np.arange(3), np.zeros(3, bool))]


def texts() -> list[str]:
    return ["one", "", "two"]


def labelled_texts() -> list[dict[str, object]]:
    return [{"text": "one", "label": 1, "weight": np.float32(0.5)}, {"text": b"two", "label": 0}]


def raising() -> object:
    raise RuntimeError("no connection\nat all")


def raising_later() -> Iterator[np.ndarray]:
    yield IMAGES[0]
    raise RuntimeError("no connection")


class Torchlike:
    """A map-style dataset whose second sample cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> np.ndarray:
        if index == 1:
            raise OSError("file is gone")
        return IMAGES[index]


class KerasSequence:
    """Batches, without an end that indexing would tell."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = index * 3
        return IMAGES[start : start + 3], LABELS[start : start + 3]


class Augmented:
    """A map-style dataset that gives something else each time."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng().random((2, 3))


def empty() -> list[object]:
    return []


def number() -> int:
    return 7


def unequal() -> dict[str, np.ndarray]:
    return {"x": IMAGES, "label": LABELS[:2]}


def with_reserved_labels() -> list[object]:
    """Samples with labels that `samples.jsonl` has fields for."""
    return [{"x": np.zeros(2, "float32"), "missing": False, "skipped": "never"}] * 2


def pairs(rows: np.ndarray, labels: list[object]) -> list[tuple[np.ndarray, object]]:
    return list(zip(rows, labels, strict=True))


def named_pairs(rows: np.ndarray, labels: list[object]) -> list[tuple[dict[str, object], object]]:
    return [({"x": row}, label) for row, label in zip(rows, labels, strict=True)]


def mappings(rows: np.ndarray, labels: list[object]) -> Iterator[dict[str, object]]:
    yield from ({"x": row, "y": label} for row, label in zip(rows, labels, strict=True))
