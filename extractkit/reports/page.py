"""The page of a report: one HTML file that needs no network, and its charts as files."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from extractkit.core.component import require
from extractkit.errors import ConfigError, JobError, RunDirectoryError
from extractkit.reports import Figure, Header, Listing, Note, Section, comparison, summary, sweeps
from extractkit.reports.attention import attention
from extractkit.reports.budget import MOST_BYTES, embedded, encoded
from extractkit.reports.charts import altair, styles, with_values
from extractkit.reports.images import images
from extractkit.reports.material import Material
from extractkit.reports.samples import examples, sample_map
from extractkit.reports.statistics import distributions, drift, moments, statistics
from extractkit.reports.steps import saliency, steps
from extractkit.reports.tensors import tensors
from extractkit.runs import manifest
from extractkit.runs.comparing.overview import departures
from extractkit.runs.comparing.result import Comparison
from extractkit.runs.directory import Mark, check_place, path_of, run_path
from extractkit.runs.overview import Overview
from extractkit.runs.reader import open_run
from extractkit.runs.sweeps import is_sweep
from extractkit.runs.sweeps.reader import open_sweep
from extractkit.store.local import make_directory, private_cache, write_durably

Family = Callable[[Material, int], Iterator[Section]]

FAMILIES: Sequence[tuple[Family, int]] = (
    (summary.summary, 200_000),
    (attention, 1_500_000),
    (saliency, 200_000),
    (images, 700_000),
    (steps, 400_000),
    (sample_map, 300_000),
    (examples, 150_000),
    (tensors, 700_000),
    (distributions, 400_000),
    (statistics, 300_000),
    (moments, 100_000),
    (drift, 200_000),
    (summary.absent, 100_000),
    (summary.provenance, 200_000),
)
"""The families of sections in the order of the page, each with the bytes that it may take."""

_ROOM_OF_SWEEP = 2_000_000

_ENDINGS = (".svg", ".png")

_HERE = Path(__file__).parent

_MARK = Mark("a report", b'<meta name="generator" content="extractkit">')


def report(
    run: str | Path | Comparison,
    output: str | Path | None = None,
    *,
    figures: str | Path | None = None,
    umap: bool = False,
    trust: Sequence[str] = (),
) -> Path:
    """Write a report: one HTML page that anyone can open, offline.

    Args:
        run: the directory of a run or of a sweep, or what `diff` found about two runs.
        output: the file; None: the directory's name with the ending `.html`, beside it, and for two
            runs `A-B.html` beside the first. Of files that exist, only reports are replaced.
        figures: a directory for each chart as SVG and PNG, made if needed; None: no files. No file
            in it is replaced.
        umap: also draw the map of a run's samples by UMAP, which takes a while.
        trust: modules whose callables the runs' configurations may name.

    Returns:
        The file.

    Raises:
        MissingExtraError: Altair, vl-convert or Jinja2 is not installed.
        RunDirectoryError: there is no run, or its manifest is damaged.
        ConfigError: a file or directory cannot be written there. Nothing is left behind.
    """
    given = (run.a, run.b) if isinstance(run, Comparison) else (run,)
    directories = [run_path(one) for one in given]
    name = "-".join(one.name for one in directories)
    path = directories[0].with_name(f"{name}.html") if output is None else path_of(output, "output")
    folder = None if figures is None else path_of(figures, "figures")
    for directory in directories:
        check_place(path, directory, "output", mark=_MARK)
        if folder is not None:
            check_place(folder, directory, "figures", folder=True)
    altair()
    require("vl_convert", "report")
    header, sections = _content(run, directories[0], trust, umap=umap)
    content = page(header, sections).encode()
    drawn = {} if folder is None else drawn_figures(sections, folder)
    try:
        _write({**drawn, path: content}, folder)
    except JobError as error:
        raise ConfigError(f"{error}. Choose another place") from error
    return path


def _content(
    run: str | Path | Comparison, directory: Path, trust: Sequence[str], *, umap: bool
) -> tuple[Header, list[Section]]:
    of_run = not isinstance(run, Comparison) and not is_sweep(directory)
    if umap and not of_run:
        raise ConfigError("umap is for the page about one run, whose samples it maps. Leave it out")
    if umap:
        require("umap", "report --umap")
    if isinstance(run, Comparison):
        apart = departures(run, comparison.MOST_TENSORS, trust=trust)
        return comparison.header(run), comparison.sections_of(run, apart)
    if is_sweep(directory):
        found = open_sweep(directory, trust=trust)
        return sweeps.header(found), sweeps.sections_of(found, _ROOM_OF_SWEEP)
    material = replace(material_of(directory, trust), umap=umap)
    return summary.header(material), sections_of(material)


def material_of(directory: Path, trust: Sequence[str] = ()) -> Material:
    """Open a run for its report. Damage is recorded, except that of the manifest.

    Raises:
        RunDirectoryError: there is no run, or its manifest is damaged.
    """
    damage: dict[str, None] = {}
    try:
        run = open_run(directory, trust=trust)
    except RunDirectoryError as error:
        damage[str(error)] = None
        recorded = manifest.read(directory)
        return Material(Overview.of(directory, recorded), recorded, None, damage=damage)
    return Material.of(run, damage)


def sections_of(material: Material) -> list[Section]:
    """Return the sections of a report, in the order of the page."""
    found = [section for family, room in FAMILIES for section in family(material, room)]
    damage = tuple(Note(text, warns=True) for text in material.damage)
    first = found[0]
    if damage:
        found[0] = Section(
            first.anchor, first.title, first.lead, (*damage, *first.blocks), first.pickers
        )
    return found


def page(header: Header, sections: Sequence[Section], most: int = MOST_BYTES) -> str:
    """Return the page. If it would be too large, a note replaces the largest sections.

    Args:
        header: what the page begins with.
        most: the largest number of bytes.
    """
    kept = list(sections)
    left = list(range(1, len(kept)))
    text = _rendered(header, kept)
    while left and len(text.encode()) > most:
        at = max(left, key=lambda number: _length(kept[number]))
        left.remove(at)
        note = Note(f"This section is not shown: with it, the page would exceed {most / 1e6:g} MB.")
        kept[at] = Section(kept[at].anchor, kept[at].title, kept[at].lead, (note,))
        text = _rendered(header, kept)
    return text


def _length(section: Section) -> int:
    """Return about how many characters a section takes on the page."""
    others = (block for block in section.blocks if not _has_data(block))
    return len(_data(section)) + sum(len(str(block)) for block in others)


def _rendered(header: Header, sections: Sequence[Section]) -> str:
    jinja = require("jinja2", "report")
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    needs_charts = any(isinstance(block, Figure) for one in sections for block in one.blocks)
    scripts = [_file("page.js")]
    if needs_charts:
        scripts.insert(0, _vega())
    style = _file("page.css")
    return str(
        environment.get_template("page.html").render(
            header=header,
            sections=sections,
            data={one.anchor: jinja.utils.markupsafe.Markup(_data(one)) for one in sections},
            styles=jinja.utils.markupsafe.Markup(embedded(styles())),
            kind=lambda block: type(block).__name__,
            style=jinja.utils.markupsafe.Markup(style),
            scripts=[jinja.utils.markupsafe.Markup(one) for one in scripts],
            policy=_policy(style, scripts),
        )
    )


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Return a Content-Security-Policy that lets the page run its own code, and load nothing."""
    own = " ".join(f"'sha256-{_sha256(one)}'" for one in scripts)
    return (
        f"default-src 'none'; script-src {own}; style-src 'sha256-{_sha256(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _file(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


@cache
def _vega() -> str:
    """Return the code of Vega and Vega-Lite, which draws the charts in the browser.

    vl-convert takes a second or more to put it together, so it is kept in the user's cache.
    """
    convert = require("vl_convert", "report")
    folder = private_cache("vega")
    kept = folder and folder / f"{version('vl-convert-python')}.js"
    if kept and kept.is_file():
        return kept.read_text("utf-8")
    # Nothing in an element with a script may look like its end.
    code = str(convert.javascript_bundle())
    code = code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    if kept:
        with suppress(JobError):
            write_durably(kept, code.encode())
    return code


def _data(section: Section) -> str:
    """Return what the page's own code needs of a section, as JSON."""
    return embedded(
        {
            "pickers": [
                {"name": one.name, "options": list(one.options)} for one in section.pickers
            ],
            "blocks": [_block(block) for block in section.blocks if _has_data(block)],
        }
    )


def _has_data(block: object) -> bool:
    return isinstance(block, Figure | Listing)


def _block(block: Any) -> dict[str, object]:
    if isinstance(block, Listing):
        return {
            "kind": "listing",
            "columns": list(block.columns),
            "numeric": list(block.numeric),
            "tree": block.tree,
            "rows": [list(row) for row in block.rows],
            "details": [dict(one) for one in block.details],
        }
    return {
        "kind": "figure",
        "name": block.name,
        "chart": block.chart.to_dict(validate=False),
        "pickers": list(block.pickers),
        "axes": list(block.axes),
        "fields": list(block.fields),
        "clicks": dict(block.clicks),
        "cubes": [
            {
                "values": encoded(cube.values),
                "labels": [list(one) for one in cube.labels],
                "texts": {name: list(texts) for name, texts in cube.texts.items()},
            }
            for cube in block.cubes
        ],
    }


def drawn_figures(sections: Sequence[Section], directory: Path) -> dict[Path, bytes]:
    """Return each chart of a report as SVG and PNG, with the first option of each picker.

    Args:
        directory: where the files are to be.

    Raises:
        ConfigError: one of them exists.
    """
    convert = require("vl_convert", "report --figures")
    figures = [block for one in sections for block in one.blocks if isinstance(block, Figure)]
    for path in (directory / f"{one.name}{ending}" for one in figures for ending in _ENDINGS):
        if path.exists() or path.is_symlink():
            raise ConfigError(
                f"figures={str(directory)!r}: {path.name} exists there. Choose another directory, "
                f"or remove it first"
            )
    found = {}
    config = {**styles()["light"], "background": "white"}
    for figure in figures:
        chart = with_values(figure).to_dict(validate=False)
        drawn = (
            convert.vegalite_to_svg(chart, config=config).encode(),
            convert.vegalite_to_png(chart, config=config, scale=2),
        )
        for ending, content in zip(_ENDINGS, drawn, strict=True):
            found[directory / f"{figure.name}{ending}"] = content
    return found


def _write(files: Mapping[Path, bytes], directory: Path | None) -> None:
    """Write all files, or none.

    Args:
        files: their content, the last of which alone may replace a file.
        directory: a directory to make first, unless it exists.

    Raises:
        JobError: a file could not be written.
    """
    made = directory is not None and not directory.exists()
    written = list[Path]()
    try:
        if directory is not None:
            make_directory(directory)
        for path, content in files.items():
            write_durably(path, content)
            written.append(path)
    except BaseException:
        for path in written:
            with suppress(OSError):
                path.unlink()
        if directory is not None and made:
            with suppress(OSError):
                directory.rmdir()
        raise
