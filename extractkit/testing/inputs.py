"""The contract tests of sources of samples.

A test module of a source subclasses `SourceContract` and provides the inputs and a signature:

    class TestMyInputs(SourceContract):
        def inputs(self, folder: Path) -> Inputs:
            (folder / "x.csv").write_text("1,2\\n3,4\\n")
            return MyInputs(path=str(folder / "x.csv"))

        def signature(self) -> Signature:
            return Signature("m", (InputSpec("x", "float32", (2,), (None,)),))

pytest then collects the tests below. Use at least two samples.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from extractkit.core.spec import numpy_dtype
from extractkit.inputs import (
    HashesFiles,
    Identifying,
    Inputs,
    Sample,
    Scanning,
    Signature,
    Source,
    Unreadable,
    identity,
)
from extractkit.inputs.file_access import contents


class SourceContract:
    """Tests that every source must pass."""

    def inputs(self, folder: Path) -> Inputs:
        """Return the inputs under test. Files that they need may be written to this folder."""
        raise NotImplementedError

    def signature(self) -> Signature:
        """Return the signature of a model that can take them."""
        raise NotImplementedError

    def source(self, folder: Path) -> Source:
        """Return the bound inputs."""
        return self.inputs(folder).bind(self.signature())

    def test_there_is_a_sample_for_every_index(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        samples = source.read(0, len(source))
        assert [sample.index for sample in samples] == list(range(len(source)))
        assert samples

    def test_ids_are_unique_and_can_be_written_down(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        samples = source.read(0, len(source))
        ids = [sample.id for sample in samples]
        assert all(ids)
        assert len(set(ids)) == len(ids)
        assert all(text.encode("utf-8") for s in samples for text in (s.id, s.source))

    def test_a_sample_is_identified_without_reading_it(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        if not isinstance(source, Identifying):  # optional: unreadable samples then have no names
            return
        for sample in source.read(0, len(source)):
            known = identity(source, sample.index)
            assert (known.id, known.source) == (sample.id, sample.source)
            assert known.extra.items() <= sample.extra.items()

    def test_the_data_is_what_the_model_takes(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for sample in source.read(0, len(source)):
            assert_fits(sample, self.signature())

    def test_one_sample_read_alone_is_the_same(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        together = source.read(0, len(source))
        for index in reversed(range(len(source))):
            assert_same(source.read(index, index + 1), [together[index]])

    def test_any_split_reads_the_same(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        together = source.read(0, len(source))
        for cut in range(len(source) + 1):
            parts = [*source.read(0, cut), *source.read(cut, len(source))]
            assert_same(parts, together)

    def test_threads_may_read_at_once(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        together = source.read(0, len(source))
        indices = [index for index in range(len(source)) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            alone = list(pool.map(lambda index: source.read(index, index + 1)[0], indices))
        assert_same(alone, [together[index] for index in indices])

    def test_what_a_reader_does_to_a_sample_stays_with_it(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        sample = source.read(0, 1)[0]
        before = _comparable(sample)
        for value in _arrays(sample).values():
            if value.flags.writeable:
                value[...] = value == 0
        assert _comparable(source.read(0, 1)[0]) == before

    def test_an_empty_range_reads_nothing(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        assert not source.read(0, 0)
        assert not source.read(len(source), len(source))

    def test_samples_that_are_not_there_are_an_error(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        for start, stop in [(0, len(source) + 1), (-1, 1), (1, 0)]:
            try:
                source.read(start, stop)
            except IndexError:
                continue
            raise AssertionError(f"read({start}, {stop}) raised no IndexError")

    def test_a_scan_shows_every_sample_once(self, tmp_path: Path) -> None:
        inputs = self.inputs(tmp_path)
        if not isinstance(inputs, Scanning):  # optional: a job then reads the samples once more
            return
        shown: list[Sample | Unreadable] = []
        source = inputs.scan(self.signature(), shown.append)
        bound = inputs.bind(self.signature())
        assert source.digest == bound.digest
        samples = [one for one in shown if isinstance(one, Sample)]
        assert len(samples) == len(shown)
        if samples:  # a source may need a pass of its own to show them
            assert_same(samples, source.read(0, len(source)))

    def test_digests_of_files_are_those_of_their_contents(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        if isinstance(source, HashesFiles):
            for path, digest in source.file_digests.items():
                assert path.is_absolute()
                assert digest == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_bound_again_it_has_the_same_digest_and_samples(self, tmp_path: Path) -> None:
        inputs = self.inputs(tmp_path)
        first, second = inputs.bind(self.signature()), inputs.bind(self.signature())
        assert first.digest
        assert first.digest == second.digest
        assert first.notes == second.notes
        assert_same(first.read(0, len(first)), second.read(0, len(second)))


def read_all(inputs: Inputs, signature: Signature) -> Sequence[Sample]:
    """Bind the inputs and read every sample, as a job does.

    Raises:
        InputError: the source or one of its samples cannot be used.
    """
    source = inputs.bind(signature)
    return source.read(0, len(source))


def assert_fits(sample: Sample, signature: Signature) -> None:
    """Check for a text if the model takes text, or for an array for each of its inputs."""
    if isinstance(sample.data, str):
        assert signature.takes_text
        return
    assert set(sample.data) == {spec.name for spec in signature.specs}
    lengths: dict[str, int] = {}
    for spec in signature.specs:
        value = sample.data[spec.name]
        assert isinstance(value, np.ndarray)
        assert value.dtype == numpy_dtype(spec.dtype)
        assert value.ndim == len(spec.shape)
        for dim, wanted, size in zip(spec.dims, spec.shape, value.shape, strict=True):
            assert size == (lengths.setdefault(str(dim), size) if wanted is None else wanted)
    assert all(lengths.get(dim, 0) <= most for dim, most in (signature.longest or {}).items())


def assert_same(found: Sequence[Sample], expected: Sequence[Sample]) -> None:
    """Check that samples are equal, with arrays equal bit for bit."""
    assert [_comparable(sample) for sample in found] == [_comparable(one) for one in expected]


def _comparable(sample: Sample) -> tuple[object, ...]:
    data = sample.data if isinstance(sample.data, str) else ""
    arrays = {
        name: (value.dtype.str, value.shape, contents(value))
        for name, value in _arrays(sample).items()
    }
    return sample.index, sample.id, sample.source, dict(sample.extra), data, arrays


def _arrays(sample: Sample) -> Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]:
    return {} if isinstance(sample.data, str) else sample.data
