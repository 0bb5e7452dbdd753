"""The page: one HTML file that asks nothing of the network and runs no script.

Everything that comes from outside is escaped by the templates; the page's own policy forbids all requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import jinja2

from clearsight.report import axis, text, view
from clearsight.report.data import ReportData
from clearsight.report.legend import explanations


def render_report(data: ReportData) -> str:
    """The whole report as one HTML document: pictures as data URIs, style inline, drawings as SVG.

    The same data gives the same page, byte for byte. Control characters and lone surrogates in ids or texts
    are shown as the replacement character, so that the result can always be written as UTF-8.
    """
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            tables=view.task_tables(data.rows),
            headlines=view.headlines(data.rows),
            measures=view.measures_of(data.rows),
            scales=view.scales(data.rows),
            repairs=explanations(row.repair for row in data.rows),
            examples=view.examples_by_task(data.examples),
            charts=[axis.chart(curve) for curve in data.curves],
            geometry_columns=view.geometry_columns(data.geometry),
        )
    )
    return text.clean(html)


@cache
def environment() -> jinja2.Environment:
    """The templates of all pages, and the filters that write numbers and texts in them."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("clearsight.report"), jinja2.PackageLoader("clearsight.report.diagnosis")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        arrows=text.arrows,
        figure=text.figure,
        measure_name=text.measure_name,
        p_text=text.p_text,
        percent=text.percent,
        fine_percent=text.fine_percent,
        points=text.points,
        shorten=text.shorten,
        data_uri=view.data_uri,
        verdict=view.verdict,
    )
    environment.globals.update(interval=text.interval)
    environment.tests["mapping"] = lambda value: isinstance(value, Mapping)
    return environment
