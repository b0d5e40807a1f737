import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pypdf
import pytest
from PIL import Image

from xai_io import (
    ExportError,
    Report,
    Volume,
    clusters,
    display_for,
    region_table,
    write_report_html,
    write_report_pdf,
)

RECORD = {
    "notice": "Research use only; not a medical device, not for diagnosis.",
    "question": "why 'lesion' (class 1) rather than 'no lesion' (class 0)",
    "score": 11.34,
    "gap": 0.02,
    "absorbed": {"dead": 0.691},
    "warnings": ["The map equals the prediction."],
    "method": "lrp",
    "parameters": {"composite": "*: gamma(0.25)", "layer": None},
    "target": "ClassMargin(k=1)",
    "running": {"output": None, "windows": {"roi_size": [48, 48, 48], "mode": "gaussian"}},
    "prediction": {"no lesion": 1.2e-5, "lesion": 0.98765},
    "prediction_unit": "probability",
    "model": {"name": "a_bundle", "form": "bundle", "network": "UNet", "sha256": "1078b035311a0a2e" * 4},
    "model_grid": {"shape": [10, 11, 12], "affine_ras_mm": np.diag([3.0, 3, 3, 1]).tolist()},
    "way_back": "sum-preserving",
    "field_of_view": {"relevance_outside": 0.012, "scan_unseen": 0.34},
    "extensive": True,
    "sum_on_model_grid": 10.6489,
    "sum_on_scan": 10.6123,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "device": "cpu",
    "dtype": "float32",
    "seconds": 1.22,
    "peak_memory_bytes": 2**29,
    "faithfulness": {
        "deletion": 0.279,
        "deletion, random maps": [0.844, 0.793],
        "insertion": 1.438,
        "insertion, random maps": [0.723, 0.896],
        "shares": [0, 0.01, 0.1, 1],
        "deletion curve": [1, 0.5, 0.2, 0],
        "insertion curve": [0, 0.6, 0.9, 1],
        "settings": {"blank": "tissue"},
    },
}
UNMEASURED = {name: value for name, value in RECORD.items() if name != "faithfulness"}
AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2, 0, -30], [0, 0, 3, -50], [0, 0, 0, 1]])


def report(values=None, **changes):
    """A small scan with one positive and one negative blob."""
    rng = np.random.default_rng(0)
    scan = Volume(rng.uniform(0, 100, (1, 24, 22, 18)).astype(np.float32), AFFINE)
    if values is None:
        values = np.zeros(scan.shape, np.float32)
        values[4:9, 5:10, 6:11], values[15:18, 15:18, 3:6], values[6, 7, 8] = 1.0, -0.5, 3.25
    relevance = scan.with_data(np.asarray(values, np.float32)[None])
    display = dataclasses.replace(display_for(scan, relevance), planes=("axial",))  # one is quicker to draw than three
    settings = {"scan": scan, "relevance": relevance, "record": UNMEASURED, "display": display}
    return Report(**settings | {"regions": clusters(relevance, display.threshold)[1]} | changes)


class Page(HTMLParser):
    """Text, table cells, attributes and open tags of a page; refuses tags that do not close."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.cells, self.text = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data


def html_of(tmp_path, some):
    write_report_html(tmp_path / "report.html", some, overwrite=True)
    return (tmp_path / "report.html").read_text("utf-8")


def pdf_of(tmp_path, some):
    write_report_pdf(tmp_path / "report.pdf", some, overwrite=True)
    return [page.extract_text() for page in pypdf.PdfReader(tmp_path / "report.pdf").pages]


def joined(texts):
    """Words without the spaces, breaks and page marks between them."""
    return re.sub(r"RESEARCHUSEONLY,NOTFORDIAGNOSIS(page\d+)?", "", re.sub(r"\s+", "", "".join(texts)))


def test_the_page_is_well_formed_and_needs_nothing_else(tmp_path):
    page = Page(html_of(tmp_path, report(record=RECORD)))
    assert not {"script", "link", "iframe", "object", "embed", "form", "base", "svg"} & {*page.tags}
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "background")]
    assert len(sources) == 3 and all(value.startswith("data:image/png;base64,") for value in sources)
    for source in sources:
        assert Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size[0] > 400
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    written = re.sub(r"base64,[^\"]*", "", (tmp_path / "report.html").read_text("utf-8"))
    assert not re.search(r"https?:|file:|//|url\(|@import", written)
    assert "default-src 'none'" in written


def test_html_and_pdf_say_the_same_and_all_of_it(tmp_path):
    """Every number that the regions and the record have is on the page, as this independent formatting has it."""
    some = report(record=RECORD)
    html = joined(Page(html_of(tmp_path, some)).text)
    pdf = joined(pdf_of(tmp_path, some))
    first, second = some.regions
    assert (first.voxels, second.voxels) == (125, 27)
    wanted = [
        "1 cluster 1 raises 1500", "2 cluster 2 lowers 324", f"{100 * first.share:.1f} %", "3.25", "-0.5",
        "R 28.0, P 16.0, I 26.0",
        "11.34", "0.02 (0.0018 of the score)", "dead 0.691", "The map equals the prediction.", "*: gamma(0.25)",
        "ClassMargin(k=1)", "roi_size 48 × 48 × 48; mode gaussian", "a_bundle", "1078b035311a0a2e" * 4,
        "24 × 22 × 18 voxels of 2 × 2 × 3 mm, axes LAS", "10 × 11 × 12 voxels of 3 × 3 × 3 mm, axes RAS",
        "sum-preserving", "1.2 %, not shown", "34.0 % of the voxels", "10.6489", "10.6123", "torch 2.13.0",
        "cpu, float32", "1.2 s", "512 MiB", "0.279", "0.844, 0.793", "1.438", "blank tissue", "< 0.0001", "0.9877",
        "red-blue", RECORD["question"],
    ]  # fmt: skip
    for words in wanted:
        assert joined(words) in html, words
        assert joined(words) in pdf, words


def test_the_notice_is_on_every_page(tmp_path):
    pages = pdf_of(tmp_path, report(regions=report().regions * 40))
    assert len(pages) > 3
    assert all(text.count("RESEARCH USE ONLY, NOT FOR DIAGNOSIS") == 2 for text in pages)
    html = html_of(tmp_path, report())
    said = [words for words in Page(html).text if words.strip()]
    assert said[:2] == ["Relevance report", "RESEARCH USE ONLY, NOT FOR DIAGNOSIS"]  # the title, then the page
    assert re.search(r"\.notice { display: table-header-group; break-inside: avoid", html)  # what repeats it in print


def test_every_region_is_in_the_table_as_it_is(tmp_path):
    values = np.zeros((24, 22, 18))
    rng = np.random.default_rng(1)
    for i in range(0, 24, 3):
        for j in range(0, 22, 3):
            for k in range(0, 18, 3):
                values[i : i + 2, j : j + 2, k : k + 2] = rng.uniform(1, 5) * rng.choice([-1, 1])
    some = report(values)
    regions = clusters(some.relevance, 0.5, most=200)[1]
    assert len(regions) == 200
    some = dataclasses.replace(some, regions=regions)
    cells = Page(html_of(tmp_path, some)).cells
    start = cells.index("peak at (mm)") + 1
    letters = ("LR", "PA", "IS")
    pdf = joined(pdf_of(tmp_path, some))
    for n, region in enumerate(regions):
        row = cells[start + 8 * n : start + 8 * (n + 1)]
        assert row[0] == str(region.number) == str(n + 1) and row[1] == region.name
        assert row[2] == ("raises" if region.sign > 0 else "lowers")
        assert float(row[3]) == pytest.approx(region.volume_mm3, rel=0.006)
        assert float(row[4].removesuffix(" %")) / 100 == pytest.approx(region.share, abs=0.0006)
        assert float(row[5]) == pytest.approx(region.mean, rel=0.006)
        assert float(row[6]) == pytest.approx(region.peak, rel=0.006)
        for place, mm, (low, high) in zip(row[7].split(", "), region.peak_mm, letters, strict=True):
            letter, size = place.split()
            assert float(size) * (1 if letter == high else -1) == pytest.approx(mm, abs=0.051)
            assert letter in (low, high)
        assert joined(row) in pdf


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><b>&amp;",
    "{{ 7 * 7 }} {% for x in y %} <para> </para> &nbsp;",
    "a\u202egnp.exe\x00\x1b[31m\nnext",
    "Läsion 病変 🫀 Ωμ",
    "long" * 1000,
    "many words " * 300,
    "",
]


def test_hostile_names_are_words_and_nothing_else(tmp_path):
    some = report()
    regions = [dataclasses.replace(some.regions[0], name=name, number=n) for n, name in enumerate(HOSTILE)]
    record = UNMEASURED | {
        "prediction": {name: 1 / (n + 2) for n, name in enumerate(HOSTILE)},
        "question": HOSTILE[0] * 3,
        "warnings": HOSTILE,
        "parameters": {name: name for name in HOSTILE},
        "model": {"name": HOSTILE[1], "sha256": ""},
        "method": HOSTILE[3],
    }
    patient = {name: name for name in HOSTILE}
    some = dataclasses.replace(some, regions=regions, record=record, patient=patient)
    html = html_of(tmp_path, some)
    page = Page(html)
    plain = Page(html_of(tmp_path, report()))
    assert {*page.tags} == {*plain.tags}  # not one tag more
    assert {(tag, name) for tag, name, _ in page.attributes} == {(tag, name) for tag, name, _ in plain.attributes}
    for name in HOSTILE[:4]:
        assert name in page.cells
    pdf = joined(pdf_of(tmp_path, some))
    for name in HOSTILE[:4] + HOSTILE[6:8]:
        assert pdf.count(joined(name)) >= 3, name[:20]
    assert r"Läsion\u75c5\u5909\U0001fac0Ωμ" in pdf and "49" not in page.cells


def test_many_classes_are_all_there_the_likeliest_first(tmp_path):
    shares = np.random.default_rng(0).dirichlet(np.ones(40))
    record = UNMEASURED | {"prediction": {f"organ {n}": float(share) for n, share in enumerate(shares)}}
    some = report(record=record)
    cells = Page(html_of(tmp_path, some)).cells
    found = [(cells[n], cells[n + 1]) for n in range(len(cells)) if cells[n].startswith("organ ")]
    assert [name for name, _ in found] == [f"organ {n}" for n in np.argsort(-shares)]
    pdf = pdf_of(tmp_path, some)
    assert all(joined(f"organ {n} {share:.4f}") in joined(pdf) for n, share in enumerate(shares) if share > 1e-4)
    assert "34 more" in pdf[0]


@pytest.mark.parametrize("value,words", [(0.0, "zero everywhere"), (-1.0, "lowers"), (np.nan, "No region was found")])
def test_maps_of_nothing_and_of_one_sign(tmp_path, value, words):
    some = report(np.full((24, 22, 18), value))
    assert joined(words) in joined(Page(html_of(tmp_path, some)).text)
    assert joined(words) in joined(pdf_of(tmp_path, some))


def test_a_segmentation_shows_its_outlines_and_structures(tmp_path):
    some = report()
    labels = some.scan.with_data((some.relevance.data > 0.5).astype(np.uint8))
    structures = region_table(some.relevance, labels, {0: "background", 1: "spleen"})
    record = UNMEASURED | {"prediction": {"background": 99000.0, "spleen": 1500.4}, "prediction_unit": "mm3"}
    seg = dataclasses.replace(some, labels=labels, structures=structures, record=record)
    text = joined(Page(html_of(tmp_path, seg)).text)
    assert joined("spleen1500") in text and joined("outlines of the prediction") in text
    assert joined("1spleenraises1500") in text
    words = write_report_html(tmp_path / "a.html", seg)
    assert "prediction" in words and "prediction" not in write_report_html(tmp_path / "b.html", some)


def test_a_record_with_little_in_it_is_enough(tmp_path):
    some = report(record={"method": "occlusion"}, regions=())
    for text in (Page(html_of(tmp_path, some)).text, pdf_of(tmp_path, some)):
        assert joined("not defined: the values of this method do not sum to the score") in joined(text)
        assert joined("No region was found") in joined(text) and "None" not in joined(text)


def test_nothing_about_the_patient_unless_it_is_handed_over(tmp_path):
    some = report()
    assert "Patient" not in Page(html_of(tmp_path, some)).text
    named = dataclasses.replace(some, patient={"name": "Doe^Jane", "id": "4711"})
    for text in (Page(html_of(tmp_path, named)).text, pdf_of(tmp_path, named)):
        assert joined("Patient") in joined(text) and "Doe^Jane" in joined(text) and "4711" in joined(text)


def test_equal_input_gives_equal_bytes_without_dates(tmp_path):
    for write, kind in ((write_report_html, "html"), (write_report_pdf, "pdf")):
        for name in "ab":
            write(tmp_path / f"{name}.{kind}", report())
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    about = pypdf.PdfReader(tmp_path / "a.pdf").metadata
    assert about["/CreationDate"].startswith("D:20000101") and "anonymous" not in str(about)


def test_the_words_returned_are_all_that_the_pdf_says(tmp_path):
    words = write_report_pdf(tmp_path / "a.pdf", report(patient={"name": "Doe^Jane"}))
    text = joined(pdf_of(tmp_path, report(patient={"name": "Doe^Jane"})))
    for said in sorted({joined([word]) for word in words}, key=len, reverse=True):
        text = text.replace(said, "|") if len(said) > 1 else text
    assert len(text.replace("|", "")) < 12, text  # digits of single letters
    assert {"Doe^Jane", "relevance"} <= {*words}


def test_the_preset_decides_the_point(tmp_path):
    some = report()
    aimed = dataclasses.replace(some, display=dataclasses.replace(some.display, centre=(20.0, -20.0, -20.0)))
    text = joined(Page(html_of(tmp_path, aimed)).text)
    assert joined("Slices through R 20.0, P 20.0, I 20.0 mm") in text
    assert joined("Slices through the peak of region 1, R 28.0, P 16.0, I 26.0 mm") in joined(
        Page(html_of(tmp_path, some)).text
    )


def test_another_grid_is_refused_and_nothing_is_overwritten(tmp_path):
    some = report()
    other = Volume(some.relevance.data, np.eye(4))
    for changes in ({"relevance": other}, {"labels": other}, {"relevance": Volume(np.ones((2, 24, 22, 18)), AFFINE)}):
        with pytest.raises(ExportError, match="own grid"):
            dataclasses.replace(some, **changes)
    for write in (write_report_html, write_report_pdf):
        (tmp_path / "there").write_text("x")
        with pytest.raises(ExportError, match="overwrite"):
            write(tmp_path / "there", some)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
