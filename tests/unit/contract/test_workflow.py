"""The workflow file: what is accepted, and the one clear error for what is not."""

import contextlib
from typing import Literal

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tiermesh.documents import endpoints, workflow
from tiermesh.errors import InvalidDocument, TiermeshError

SIGNS = """
workflow: read-signs
slo:
  rate: 12/s
  accuracy: {metric: character_accuracy, dataset: degraded-lines, at_least: 93 %}
  latency: {p95: 900 ms}
  raw_data_stays_in: [edge, hub]
stages:
  photos:    {source: files, path: signs/, rate: 12/s}
  detect:    {model: ocr-detect, from: photos}
  text:      {sink: jsonl, path: out/text.jsonl, from: detect}
"""


def parse(text: str) -> workflow.Workflow:
    return workflow.parse(yaml.safe_load(text))


def test_a_workflow_is_read_in_base_units_and_in_order() -> None:
    signs = parse(SIGNS)
    assert list(signs.stages) == ["photos", "detect", "text"]
    assert signs.slo.rate == 12.0
    assert signs.slo.latency["p95"] == pytest.approx(0.9)
    assert signs.slo.accuracy is not None
    assert signs.slo.accuracy.at_least == pytest.approx(0.93)
    assert signs.edges == [("photos", "detect"), ("detect", "text")]


def test_the_digest_follows_the_meaning_not_the_text() -> None:
    same = SIGNS.replace("900 ms", "0.9 s").replace("12/s", "720/min")
    assert parse(same).digest == parse(SIGNS).digest
    assert parse(SIGNS.replace("93 %", "94 %")).digest != parse(SIGNS).digest


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("12/s}", "12}", "$.stages.photos.rate", "found 12; write a number with a unit"),
        ("model: ocr", "modle: ocr", "$.stages.detect", "Did you mean `model`?"),
        ("model: ocr-detect", "gpu: yes", "$.stages.detect", "source, model, map, filter, join"),
        ("from: photos", "form: photos", "$.stages.detect", "Did you mean `from`?"),
        ("from: photos", "from: fotos", "$.stages.detect.from", "there is no stage `fotos`"),
        ("p95: 900 ms", "p96: 900 ms", "$.slo.latency", "p96"),
        ("at_least", "at_most", "$.slo.accuracy", "Allowed: at_least"),
        ("93 %", "93", "$.slo.accuracy.at_least", "'93 %'"),
        ("path: out/text.jsonl, ", "", "$.stages.text.path", "needs the path"),
        (", rate: 12/s}", "}", "$.stages.photos.rate", "rate: 12/s"),
        (
            "sink: jsonl",
            "sink: kafka",
            "$.stages.text.sink",
            "Allowed: jsonl, callback, files, reply",
        ),
        ("sink: jsonl", "sink: [jsonl]", "$.stages.text.sink", "no kind of sink"),
        ("source: files", "source: file", "$.stages.photos.source", "Did you mean `files`?"),
        ("source: files", "source: camera", "$.stages.photos.source", "Allowed: files, jsonl"),
        ("path: signs/, ", "path: signs/, device: 0, ", "$.stages.photos", "no field `device`"),
        ("sink: jsonl", "sink: reply", "$.stages.text", "no field `path`"),
        ("sink: jsonl", "sink: files, call: x", "$.stages.text", "no field `call`"),
        ("source: files", "source: jsonl, field: x", "$.stages.photos", "no field `field`"),
        ("path: signs/, rate: 12/s", "path: [], rate: 12", "$.stages.photos.rate", "12/s"),
        (
            "{sink: jsonl, path: out/text.jsonl, from: detect}",
            "{union: false, from: [detect, photos]}",
            "$.stages.text.union",
            "union: true",
        ),
        ("workflow: read-signs", "workflow: 7", "$.workflow", "Expected `str`"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_fix(
    old: str, new: str, path: str, says: str
) -> None:
    assert old in SIGNS
    with pytest.raises(InvalidDocument) as caught:
        parse(SIGNS.replace(old, new))
    assert caught.value.fields["path"] == path
    assert says in str(caught.value)


def test_a_cycle_is_shown_stage_by_stage() -> None:
    looped = SIGNS.replace("from: photos", "from: [photos, again]").replace(
        "  text:", "  again: {map: code, from: detect}\n  text:"
    )
    with pytest.raises(
        InvalidDocument, match=r"detect -> again -> detect|again -> detect -> again"
    ):
        parse(looped)


def test_a_stage_that_nobody_reads_is_an_error() -> None:
    with pytest.raises(InvalidDocument, match="no stage reads what it makes"):
        parse(SIGNS + "  lost: {map: code, from: detect}\n")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["workflow", "stages", "slo", "model", "from", "sink", "a"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_is_in_the_file_the_error_is_ours(data: object) -> None:
    with contextlib.suppress(TiermeshError):
        workflow.parse(data)


def test_the_published_schema_agrees_with_the_parser() -> None:
    schema = workflow.json_schema()
    jsonschema.validate(yaml.safe_load(SIGNS), schema)
    for old, new in [("12/s}", "12}"), ("at_least", "at_most"), ("model: ocr", "modle: ocr")]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(SIGNS.replace(old, new)), schema)


OTHER_KINDS = """
workflow: ask
stages:
  questions: {source: jsonl, path: in/questions.jsonl, rate: 2/s, arrivals: poisson, repeat: true}
  answers:   {sink: files, path: out, from: questions}
  back:      {sink: reply, from: questions}
  code:      {sink: callback, call: code, from: questions, options: {level: 3}}
"""


def test_kinds_of_sources_and_sinks_have_options_of_their_own() -> None:
    asked = parse(OTHER_KINDS)
    questions, code = asked.stages["questions"], asked.stages["code"]
    assert isinstance(questions, endpoints.JsonlSource)
    assert questions.is_endless
    assert not questions.is_even
    assert questions.own_options == {}
    assert isinstance(code, endpoints.CallbackSink)
    assert code.options == {"level": 3}
    photos = parse(SIGNS.replace("path: signs/", "path: signs/, field: photo")).stages["photos"]
    assert isinstance(photos, endpoints.FilesSource)
    assert photos.own_options == {"field": "photo"}
    assert not photos.is_endless
    jsonschema.validate(yaml.safe_load(OTHER_KINDS), workflow.json_schema())


def test_a_kind_that_is_registered_is_a_kind_of_the_workflow_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Camera(workflow.Source, frozen=True, kw_only=True):
        source: Literal["camera"]
        device: int = 0

    monkeypatch.setitem(endpoints.SOURCES, "camera", Camera)
    text = SIGNS.replace("source: files, path: signs/", "source: camera, device: 2")
    camera = parse(text).stages["photos"]
    assert isinstance(camera, Camera)
    assert (camera.device, camera.is_endless, camera.own_options) == (2, True, {"device": 2})
    assert parse(text).offered_rps("photos") == 12.0


def test_workflow_files_from_before_there_were_kinds_keep_their_digests() -> None:
    text = """
workflow: w
stages:
  a: {source: files, path: [x, y], rate: 3/s, arrivals: poisson, seed: 3, count: 4}
  b: {sink: callback, call: code, from: a, options: {k: 1}}
  c: {sink: callback, call: code, path: out, from: a}
  d: {sink: jsonl, path: out, from: a, tiers: [edge]}
"""
    former = "sha256:7b6ef70d420fc80ee155bb76cbb3e8007a44de51882309b8259300d7dfff6862"
    assert parse(text).digest == former
    assert parse(text.replace("path: [x, y]", "path: [x, y], field: image")).digest == former
    assert parse(text.replace("path: [x, y]", "path: [x, y], field: text")).digest != former
