"""The selector algebra obeys the laws of sets, over random catalogs and random configurations."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from extractkit.core.catalog import Catalog, Edges, Kind, Scope, TensorRecord
from extractkit.core.selectors import parse_selector
from extractkit.core.spec import TensorSpec

Tree = dict[str, object]

LAYERS = ("a", "b", "ab")
TYPES = ("Dense", "Layer", "Block")
PORTS = ("output", "op/Add", "kernel")
DTYPES = ("float32", "int8")

SCOPES = st.builds(
    Scope,
    st.lists(st.sampled_from(LAYERS), max_size=3).map("/".join),
    st.sampled_from(TYPES),
    st.lists(st.sampled_from(TYPES), max_size=2).map(tuple),
)
RECORDS = st.builds(
    TensorRecord,
    st.builds("{}:{}".format, SCOPES.map(lambda scope: scope.path), st.sampled_from(PORTS)),
    kind=st.sampled_from(Kind),
    spec=st.builds(TensorSpec, st.sampled_from(DTYPES), st.none()),
    scopes=st.lists(SCOPES, max_size=3).map(tuple),
    name=st.sampled_from(["", "a:output", "b_7:kernel"]),
    op_type=st.none() | st.sampled_from(["Add", "Softmax"]),
)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Records with random edges, cycles included, as loops have them."""
    records = draw(st.lists(RECORDS, max_size=12, unique_by=lambda record: record.address))
    size = len(records)
    bits = draw(st.integers(0, 2 ** (size * size) - 1))
    edges = [[at for at in range(size) if bits >> (row * size + at) & 1] for row in range(size)]
    return Catalog(records, edges=Edges(lambda: edges))


CATALOGS = catalogs()

GLOBS = ("*", "a*", "*b*", "?", "*:output", "*Add*", "[ab]/*", "*e*", "Block", "Dense", "float*")
_TEXTS: Mapping[str, st.SearchStrategy[object]] = {
    key: st.sampled_from(GLOBS)
    for key in ("path", "layer_type", "inside", "op_type", "port", "dtype")
}
VALUES: Mapping[str, st.SearchStrategy[object]] = {
    **_TEXTS,
    "regex": st.sampled_from(["a", "^b", "t$", "[^a]", "/|:"]),
    "kind": st.sampled_from([str(kind) for kind in Kind]),
    "depth": st.integers(0, 3),
}
COMBINATORS = ("any", "all", "not", "consumes", "feeds")


@st.composite
def trees(draw: st.DrawFn, depth: int = 2) -> Tree:
    """A selector's configuration, nested at most so deep."""
    offered = sorted(VALUES) if not depth else [*COMBINATORS, *sorted(VALUES)]
    keys = draw(st.lists(st.sampled_from(offered), min_size=1, max_size=3, unique=True))
    return {key: _value(draw, key, depth) for key in keys}


def _value(draw: st.DrawFn, key: str, depth: int) -> object:
    if key in COMBINATORS:
        return [draw(trees(depth - 1)) for _ in range(draw(st.integers(1, 2)))]
    several = draw(st.lists(VALUES[key], min_size=1, max_size=2))
    return several if len(several) > 1 or draw(st.booleans()) else several[0]


TREES = trees()


def matched(catalog: Catalog, mapping: Tree) -> list[str]:
    predicate = parse_selector("mine", mapping).predicate.within(catalog)
    return [record.address for record in catalog.records if predicate.matches(record)]


@given(CATALOGS, TREES, TREES)
def test_any_is_a_union_all_an_intersection_and_not_the_complement(
    catalog: Catalog, one: Tree, other: Tree
) -> None:
    left, right = set(matched(catalog, one)), set(matched(catalog, other))
    assert set(matched(catalog, {"any": [one, other]})) == left | right
    assert set(matched(catalog, {"all": [one, other]})) == left & right
    assert set(matched(catalog, {"not": one})) == set(catalog) - left
    assert set(matched(catalog, {"not": [one, other]})) == set(catalog) - left - right


@given(CATALOGS, TREES, TREES)
def test_de_morgan(catalog: Catalog, one: Tree, other: Tree) -> None:
    refused: list[Tree] = [{"not": one}, {"not": other}]
    assert matched(catalog, {"not": {"any": [one, other]}}) == matched(catalog, {"all": refused})
    assert matched(catalog, {"not": {"all": [one, other]}}) == matched(catalog, {"any": refused})


@given(CATALOGS, TREES)
def test_double_negation_and_idempotence(catalog: Catalog, tree: Tree) -> None:
    once = matched(catalog, tree)
    for same in ({"not": {"not": tree}}, {"any": [tree, tree]}, {"all": [tree, tree]}):
        assert matched(catalog, same) == once


@given(CATALOGS, st.lists(TREES, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_any_and_all_do_not_depend_on_order(
    catalog: Catalog, trees: list[Tree], random: object
) -> None:
    shuffled = [*trees]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for key in ("any", "all"):
        assert matched(catalog, {key: trees}) == matched(catalog, {key: shuffled})


@given(CATALOGS, TREES)
def test_keys_may_be_written_in_any_order(catalog: Catalog, tree: Tree) -> None:
    reordered = dict(reversed(tree.items()))
    assert matched(catalog, reordered) == matched(catalog, tree)


@given(CATALOGS, TREES)
def test_several_keys_say_what_all_says_of_them(catalog: Catalog, tree: Tree) -> None:
    split: list[Tree] = [{key: value} for key, value in tree.items()]
    assert matched(catalog, {"all": split}) == matched(catalog, tree)


@given(CATALOGS, st.sampled_from(sorted(VALUES)), st.data())
def test_a_list_says_what_any_says_of_its_items(
    catalog: Catalog, key: str, data: st.DataObject
) -> None:
    items = data.draw(st.lists(VALUES[key], min_size=1, max_size=3))
    alternatives: list[Tree] = [{key: item} for item in items]
    assert matched(catalog, {key: items}) == matched(catalog, {"any": alternatives})


@given(CATALOGS, st.sampled_from(GLOBS))
def test_inside_holds_whatever_layer_type_does(catalog: Catalog, pattern: str) -> None:
    assert set(matched(catalog, {"inside": pattern})) >= set(
        matched(catalog, {"layer_type": pattern})
    )


@given(CATALOGS, TREES)
def test_matches_stand_in_the_catalogs_order(catalog: Catalog, tree: Tree) -> None:
    found = matched(catalog, tree)
    assert found == [address for address in catalog if address in found]


@given(CATALOGS, TREES)
def test_neighbours_are_those_that_a_walk_over_the_edges_finds(
    catalog: Catalog, tree: Tree
) -> None:
    inside = set(matched(catalog, tree))
    addresses = list(catalog)
    assert catalog.edges is not None
    consuming, feeding = [], set()
    for address, taken in zip(addresses, catalog.edges.consumed, strict=True):
        if any(addresses[at] in inside for at in taken):
            consuming.append(address)
        if address in inside:
            feeding |= {addresses[at] for at in taken}
    assert matched(catalog, {"consumes": tree}) == consuming
    assert matched(catalog, {"feeds": tree}) == [one for one in addresses if one in feeding]


@given(CATALOGS, TREES, TREES)
def test_neighbours_of_a_union_are_the_union_of_neighbours(
    catalog: Catalog, one: Tree, other: Tree
) -> None:
    for key in ("consumes", "feeds"):
        both = set(matched(catalog, {key: one})) | set(matched(catalog, {key: other}))
        assert set(matched(catalog, {key: [one, other]})) == both
        assert set(matched(catalog, {key: {"any": [one, other]}})) == both
