"""The tables of what each kernel can do, and the rows that they are made of."""

from __future__ import annotations

import json

import kernels


def test_the_tables_of_the_page_are_made_from_the_rows() -> None:
    rows = json.loads(kernels.ROWS.read_text())
    page = kernels.PAGE.read_text()
    assert page.partition(kernels.BEGIN)[2].partition(kernels.END)[0].strip() == kernels.table(rows).strip()


def test_each_kernel_of_the_documents_has_a_row() -> None:
    shown = {row["from"] for row in json.loads(kernels.ROWS.read_text())}
    assert shown == {kernels.origin(suite, flavour) for suite, flavour in kernels.KERNELS}
