"""Probabilities as whole numbers, and the token at a point of their sum.

A row's masses are its probabilities in parts of about 2**31. Sums of whole numbers are exact in any
order, so a row gets the same token whichever kernel adds it up: alone or among others, on a CPU
or a GPU. Nothing here waits for a value: the graph is built and left to whoever needs the token.

Arrays are (rows, vocabulary) or, one value a row, (rows, 1).
"""

import math

import mlx.core as mx

_BITS = 31
WHOLE = (1 << _BITS) - 128  # the largest of float32 below: no mass takes more bits
_VALUES_IN_A_CACHE = 2**20
_BLOCK = 64  # divides the vocabularies of most models, so that nothing has to be padded


def masses(scaled: mx.array) -> mx.array:
    """The probability of each token: uint32, parts of `WHOLE`, rounded.

    Args:
        scaled: (rows, vocabulary) float32 logits over temperature; -inf where a token is out of the question.
    """
    if not computes_on_cpu():
        return (mx.softmax(scaled, axis=-1) * WHOLE + 0.5).astype(mx.uint32)
    weights = _weights(scaled)
    return (weights * (WHOLE / _sum(weights)) + 0.5).astype(mx.uint32)


def log_sum(values: mx.array) -> mx.array:
    """(rows, 1): the logarithm of the sum of each row's exponentials; `values` are float32."""
    if not computes_on_cpu():
        return mx.logsumexp(values, axis=-1, keepdims=True)
    return mx.log(_sum(_weights(values))) + values.max(axis=-1, keepdims=True)


def rows_at_once(vocabulary: int) -> int:
    """Rows to pass over together: arrays beyond a CPU's caches take it twice as long, a GPU wants them large."""
    return max(1, _VALUES_IN_A_CACHE // vocabulary) if computes_on_cpu() else 2**31


def computes_on_cpu() -> bool:
    return mx.default_device().type == mx.DeviceType.cpu


def _weights(values: mx.array) -> mx.array:
    """The exponentials of each row over its largest. On a CPU, MLX's `exp` takes several times as long as `power`."""
    return mx.power(2.0, (values - values.max(axis=-1, keepdims=True)) * math.log2(math.e))


def _sum(weights: mx.array) -> mx.array:
    """(rows, 1): in an order that is the same for any number of rows."""
    blocks = _in_pieces(weights, _BLOCK, 0)
    return mx.cumsum(blocks.sum(axis=-1), axis=-1)[:, -1:]


def least_of(masses: mx.array, share: mx.array) -> mx.array:
    """(rows, 1): the mass that is this share of the row's largest."""
    return mx.floor(share * masses.max(axis=-1, keepdims=True)).astype(mx.uint32)


def part(total: mx.array, share: mx.array) -> mx.array:
    """The whole number that `share` (above 0 to 1) of a total comes to, rounded up; at least 1."""
    return mx.maximum(mx.ceil(share * total), 1).astype(mx.uint32)


def token_at(masses: mx.array, draw: mx.array) -> mx.array:
    """The token at the point `draw` (0 to 1) of each row's sum of masses, in the order of the vocabulary.

    Returns:
        (rows,) uint32. Never a token without mass, but where all of the row's are 0.
    """
    total = masses.sum(axis=-1, keepdims=True)
    return _token_at(masses, _point(total, draw))


def place_at(masses: mx.array, draw: mx.array) -> mx.array:
    """As `token_at`, for few tokens a row; returns (rows, 1) places."""
    mass = mx.cumsum(masses, axis=-1)
    return (mass <= _point(mass[:, -1:], draw)).sum(axis=-1, keepdims=True)


def nucleus_token_at(masses: mx.array, top_p: mx.array, least: mx.array, draw: mx.array) -> mx.array:
    """The token at `draw` of the likeliest tokens that together reach `top_p`, likeliest first, equals in order.

    Nothing is sorted. It takes the mass of the last token that belongs (or `least`, if that is
    more) and how many of that mass do; then, likewise, which token the point is in.
    """
    wanted = part(masses.sum(axis=-1, keepdims=True), top_p)
    edge = mx.maximum(edge_of(masses, wanted), least)
    above = _mass_from(masses, edge + 1)
    equals = (masses == edge).sum(axis=-1, keepdims=True).astype(mx.uint32)
    taken = mx.minimum((wanted - above + edge - 1) // mx.maximum(edge, 1), equals)
    point = _point(above + taken * edge, draw)
    own = edge_of(masses, point + 1)
    return _token_at(masses * (masses == own), point - _mass_from(masses, own + 1))


def edge_of(masses: mx.array, wanted: mx.array) -> mx.array:
    """(rows, 1): the largest mass m such that the tokens of mass m or more have `wanted` together.

    `wanted` is at least 1. Where all tokens have less than that, it is a mass that none is below.
    """
    return edge_by_bits(masses, wanted) if computes_on_cpu() else edge_by_sorting(masses, wanted)


def edge_by_bits(masses: mx.array, wanted: mx.array) -> mx.array:
    """`edge_of`, a bit after the other from the highest: many small passes, where sorting is slow."""
    edge = mx.zeros_like(wanted)
    for bit in reversed(range(_BITS)):
        higher = edge + (1 << bit)
        edge = mx.where(_mass_from(masses, higher) >= wanted, higher, edge)
    return edge


def edge_by_sorting(masses: mx.array, wanted: mx.array) -> mx.array:
    """`edge_of` in few passes, where each is a kernel to be started."""
    rising = mx.sort(masses, axis=-1)
    from_here = mx.cumsum(rising, axis=-1, reverse=True)
    place = mx.maximum((from_here >= wanted).sum(axis=-1, keepdims=True), 1) - 1
    return mx.take_along_axis(rising, place, axis=-1)


def _mass_from(masses: mx.array, least: mx.array) -> mx.array:
    """The sum of the masses that are `least` or more.

    Raising the others to `least` and taking that off again is three times as fast on a CPU as
    selecting. It may overflow on the way, and wraps back: the difference is right.
    """
    below = (masses < least).sum(axis=-1, keepdims=True).astype(mx.uint32)
    return mx.maximum(masses, least).sum(axis=-1, keepdims=True) - below * least


def _point(total: mx.array, draw: mx.array) -> mx.array:
    """A whole number from 0 to below `total`."""
    return mx.minimum((draw * total).astype(mx.uint32), mx.maximum(total, 1) - 1)


def _token_at(masses: mx.array, point: mx.array) -> mx.array:
    """By blocks: which block the point is in, then where in that block."""
    blocks = _in_pieces(masses, _BLOCK, 0)
    sums = blocks.sum(axis=-1)
    mass = mx.cumsum(sums, axis=-1)
    block = mx.minimum((mass <= point).sum(axis=-1, keepdims=True), sums.shape[-1] - 1)
    before = mx.take_along_axis(mass, block, axis=-1) - mx.take_along_axis(sums, block, axis=-1)
    inner = mx.cumsum(mx.take_along_axis(blocks, block[:, :, None], axis=1)[:, 0], axis=-1)
    place = (inner <= point - before).sum(axis=-1, keepdims=True)
    return mx.minimum(block * _BLOCK + place, masses.shape[-1] - 1)[:, 0].astype(mx.uint32)


def likeliest(values: mx.array, width: int) -> tuple[mx.array, mx.array]:
    """The `width` largest of each row, largest first.

    The vocabulary is looked at as columns: the columns with the `width` largest maxima hold
    all that are wanted, and are few.

    Returns:
        (rows, width) values, and (rows, width) tokens.
    """
    rows, vocabulary = values.shape
    height = _height(vocabulary, width)
    table = padded(values, -(-vocabulary // height) * height, -math.inf).reshape(rows, height, -1)
    columns = _largest(table.max(axis=1), width)
    few = mx.take_along_axis(table, columns[:, None, :], axis=2).reshape(rows, -1)
    found = _largest(few, width)
    found = mx.take_along_axis(found, mx.argsort(-mx.take_along_axis(few, found, axis=-1), axis=-1), axis=-1)
    column = mx.take_along_axis(columns, found % columns.shape[-1], axis=-1)
    tokens = found // columns.shape[-1] * table.shape[-1] + column
    return mx.take_along_axis(few, found, axis=-1), mx.minimum(tokens, vocabulary - 1)


def _height(vocabulary: int, width: int) -> int:
    """How many tokens a column has: few columns to look through, and few tokens in those that are left."""
    return 1 << max(0, min(6, int(math.log2(max(1, vocabulary // width)) / 2)))


def _largest(values: mx.array, width: int) -> mx.array:
    """Where the `width` largest of each row are, in no order; all places of a row that has no more."""
    size = values.shape[-1]
    if width >= size:
        return mx.broadcast_to(mx.arange(size, dtype=mx.uint32), values.shape)
    return mx.argpartition(values, kth=size - width, axis=-1)[:, size - width :]


def padded(values: mx.array, size: int, filler: float) -> mx.array:
    """`values` with `filler` at the end of each row up to this size; as they are if they are longer."""
    missing = size - values.shape[-1]
    return mx.pad(values, [(0, 0), (0, missing)], constant_values=filler) if missing > 0 else values


def _in_pieces(values: mx.array, size: int, filler: float) -> mx.array:
    """(rows, pieces, size): each row cut up, the last piece filled."""
    whole = -(-values.shape[-1] // size) * size
    return padded(values, whole, filler).reshape(values.shape[0], -1, size)
