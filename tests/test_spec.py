"""Specs: the text of a dim, its names, and what a spec is in JSON documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.spec import INFERRED, SAMPLES, Dim, TensorSpec
from extractkit.errors import RunDirectoryError
from extractkit.runs.schema import decode, plain
from extractkit.sinks import StoredTensor

WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(lambda word: word != "f")
SIZES = st.integers(0, 10**6)
FREE = st.builds(Dim.along, WORDS)
COMPUTED = st.lists(WORDS, max_size=3).map(lambda axes: Dim.computed_from(*axes))
UNNAMED = st.one_of(
    st.builds(Dim, st.none() | WORDS, SIZES),
    FREE,
    COMPUTED,
    st.just(Dim()),
    st.builds(lambda rest: Dim(factors=(SAMPLES, rest)), st.one_of(FREE, COMPUTED)),
    st.builds(lambda size: Dim(factors=(Dim.along("token"), Dim(size=size))), SIZES),
)
DIMS = st.one_of(UNNAMED, st.builds(Dim.named, UNNAMED, WORDS))


@given(DIMS)
def test_a_dim_is_parsed_from_its_text_and_size(dim: Dim) -> None:
    assert Dim.parse(dim.label, dim.size) == dim


@given(st.lists(DIMS, max_size=4), st.sampled_from(["float32", "string"]))
def test_a_spec_is_read_from_its_json(dims: list[Dim], dtype: str) -> None:
    spec = TensorSpec(dtype, tuple(dims))
    document = spec.to_json()
    assert list(document) == ["dtype", "dims", "shape"]
    assert TensorSpec.of(dtype, document["dims"], document["shape"]) == spec  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dim", "label", "title", "length"),
    [
        (SAMPLES, "sample", "sample", "sample"),
        (Dim.along("token"), "token", "token", "token"),
        (Dim.along("token", "query"), "query=token", "query", "token"),
        (Dim(size=12), None, None, "12"),
        (Dim("head", 12), "head", "head", "12"),
        (Dim.computed_from("token"), "f(token)", "f(token)", "f(token)"),
        (Dim("height", of=("axis1",)), "height=f(axis1)", "height", "f(axis1)"),
        (
            Dim("flat", factors=(Dim.along("token"), Dim("head", 2))),
            *("flat=token*2", "flat", "token*2"),
        ),
        (Dim(), "?", "?", "?"),
        (Dim("feature"), "feature=?", "feature", "?"),
    ],
)  # fmt: skip
def test_the_texts_of_dims(dim: Dim, label: str | None, title: str | None, length: str) -> None:
    assert (dim.label, dim.title, dim.length) == (label, title, length)
    assert str(Dim("head", 12)) == "head=12"
    assert str(Dim.along("token", "query")) == "query=token"
    assert (str(SAMPLES), str(Dim(size=12)), str(Dim())) == ("sample", "12", "?")
    assert Dim.parse("query=token").free == "token"


def test_an_axis_keeps_its_own_name_and_that_of_the_samples() -> None:
    assert Dim.along("token").named("query") == Dim.along("token", "query")
    assert Dim("head", 2).named("channel") == Dim("head", 2)
    assert SAMPLES.named("query") == SAMPLES
    whole_batch = Dim(factors=(SAMPLES, Dim.along("token")))
    assert whole_batch.named("feature") == whole_batch


@pytest.mark.parametrize("name", sorted(INFERRED))
def test_names_that_describe_are_left_out_of_what_decides(name: str) -> None:
    named = (SAMPLES, Dim(name, 3), Dim.along("token", name), Dim(name, of=("token",)))
    plain_dims = (SAMPLES, Dim(size=3), Dim.along("token"), Dim.computed_from("token"))
    assert TensorSpec("float32", named).undescribed == TensorSpec("float32", plain_dims)


def test_names_that_transforms_give_stay() -> None:
    spec = TensorSpec("float32", (SAMPLES, Dim("quantile", 3)))
    assert spec.undescribed == spec


def test_measured_axes_keep_their_names() -> None:
    before = TensorSpec("float32", (Dim(), Dim(), Dim("feature")))
    measured = before.measured((SAMPLES, Dim.along("token"), Dim(size=3)))
    assert measured.labels == ("sample", "token", "feature")
    assert measured.known
    assert not before.known
    other_rank = before.measured((SAMPLES, Dim(size=3)))
    assert other_rank.labels == ("sample", None)


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        (StoredTensor("a:b", TensorSpec("float32", (SAMPLES, Dim(size=4))), constant=False), [4]),
        (StoredTensor("a:b", TensorSpec("float32", (SAMPLES,)), constant=False), []),
        (StoredTensor("a:b", TensorSpec("float32", (Dim(size=4),)), constant=True), [4]),
    ],
)
def test_the_stored_shape_in_a_manifest_is_that_of_a_sample(
    stored: StoredTensor, shape: list[int]
) -> None:
    document = plain(stored)
    assert document["shape"] == shape
    assert decode(StoredTensor, document, "it") == stored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": ["sample", None, None]}, "it.dims has 3 axes, other than it.shape"),
        ({"shape": None}, "it.dims has 2 axes, other than it.shape"),
        ({"dims": 3}, "it.dims is 3, which is not a list"),
        ({"dtype": None}, "it.dtype is None, which is not a text"),
    ],
)
def test_a_damaged_spec_is_refused(changes: dict[str, object], message: str) -> None:
    stored = StoredTensor("a:b", TensorSpec("float32", (SAMPLES, Dim(size=4))), constant=False)
    with pytest.raises(RunDirectoryError) as error:
        decode(StoredTensor, {**plain(stored), **changes}, "it")
    assert str(error.value) == message
    with pytest.raises(RunDirectoryError, match="it lacks 'dims'"):
        decode(StoredTensor, {k: v for k, v in plain(stored).items() if k != "dims"}, "it")
