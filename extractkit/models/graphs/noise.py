"""Normal noise that depends on the inputs of a sample, not on its number, batch or padding.

Numbers are mixed by the function "lowbias32" of Chris Wellons: a bijection of 32-bit words in which
every bit of the argument changes about half of the bits of the result. All of it is arithmetic of
32-bit words and the inverse of the normal distribution, and can be repeated in NumPy.
"""

from collections.abc import Mapping

import tensorflow as tf

from extractkit.core.spec import TEXT
from extractkit.inputs import InputSpec

_GOLDEN = 0x9E3779B9


def _word(value: int) -> tf.Tensor:
    return tf.constant(value % 2**32, tf.uint32)


def _mixed(word: tf.Tensor) -> tf.Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _word(shift)))
        word *= _word(factor)
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _word(16)))


def _joined(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Return a word for two words in this order."""
    return _mixed(_mixed(one + _word(_GOLDEN)) + other)


def _positions(shape: tf.Tensor, rank: int) -> tf.Tensor:
    """Return a word for the position of each element along all axes but the first.

    Unlike the number of an element, it does not change if an axis is longer. The shape of the
    result is that of an element of the first axis, after an axis of one element.
    """
    found = tf.zeros([1] * rank, tf.uint32)
    for axis in range(1, rank):
        along = tf.reshape(tf.range(shape[axis]), [-1 if one == axis else 1 for one in range(rank)])
        found = _joined(found, tf.cast(along, tf.uint32))
    return found


def normal(
    shape: tf.Tensor, keys: tf.Tensor, seed: int, draw: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """Return independent normal numbers of mean 0 and variance 1.

    Args:
        shape: int32, the samples first; its length is static.
        keys: uint32 (samples,), one for each sample.
        seed, draw: what else decides the numbers.
    """
    rank = shape.shape[0]
    key = _joined(_joined(keys, _word(seed)), tf.cast(draw, tf.uint32))
    words = _joined(tf.reshape(key, [-1, *[1] * (rank - 1)]), _positions(shape, rank))
    # Signed integers convert exactly everywhere; the half keeps 0 and 1 out.
    half = tf.cast(tf.bitwise.right_shift(words, _word(1)), tf.int32)
    uniform = (tf.cast(half, tf.float64) + 0.5) / 2.0**31
    return tf.cast(tf.math.ndtri(uniform), dtype)


def input_words(
    specs: tuple[InputSpec, ...],
    inputs: Mapping[str, tf.Tensor],
    samples: tf.Tensor,
    lengths: Mapping[str, tf.Tensor],
) -> tf.Tensor:
    """Return a word for the inputs of each sample, without padding: uint32 (samples,).

    Ragged and sparse inputs do not count.

    Args:
        inputs: the inputs as in the model.
        lengths: int32 (samples,), the samples' lengths along each free axis.
    """
    found = tf.zeros([samples], tf.uint32)
    for spec in specs:
        if spec.composite is None:
            words = _words(_samples_first(inputs[spec.name], spec))
            rank = len(spec.shape) + 1
            shape = tf.shape(words)[:rank]
            placed = _joined(_positions(shape, rank), words)
            found = _joined(found, _total(placed, spec, lengths))
    return found


def _samples_first(tensor: tf.Tensor, spec: InputSpec) -> tf.Tensor:
    rank = len(spec.shape)
    if spec.sample_axis is None:
        return tf.expand_dims(tensor, 0)
    axes = [axis for axis in range(rank + 1) if axis != spec.sample_axis]
    return tf.transpose(tensor, [spec.sample_axis, *axes]) if spec.sample_axis else tensor


def _words(tensor: tf.Tensor) -> tf.Tensor:
    """Return a word for each element, which depends on all of its bits."""
    if tensor.dtype.name == TEXT:
        hashed = tf.strings.to_hash_bucket_fast(tensor, 2**31 - 1)
        return tf.cast(hashed, tf.uint32)
    if tensor.dtype == tf.bool:
        return tf.cast(tensor, tf.uint32)
    if tensor.dtype.is_complex:
        return _joined(_words(tf.math.real(tensor)), _words(tf.math.imag(tensor)))
    if tensor.dtype.size < 4:
        whole = tf.int32 if tensor.dtype.is_integer else tf.float32
        return tf.bitcast(tf.cast(tensor, whole), tf.uint32)
    words = tf.bitcast(tensor, tf.uint32)
    if tensor.dtype.size == 4:
        return words
    return _joined(words[..., 0], words[..., 1])


def _total(words: tf.Tensor, spec: InputSpec, lengths: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return the sum of each sample's words, modulo 2³², without padding."""
    for axis, dim in enumerate(spec.dims, start=1):
        if dim is not None:
            mask = tf.sequence_mask(lengths[dim], tf.shape(words)[axis])
            shape = [1] * (len(spec.dims) + 1)
            shape[0], shape[axis] = tf.shape(words)[0], tf.shape(words)[axis]
            words *= tf.cast(tf.reshape(mask, shape), tf.uint32)
    return tf.reduce_sum(tf.reshape(words, [tf.shape(words)[0], -1]), axis=1)
