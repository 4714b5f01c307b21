"""`dcam reproduce` from end to end: a shipped model, folders in the formats of COCO Caption and GranDf."""

import json
import shutil

import pytest

from dcam_core.cli.main import main
from dcam_plugins.scenes import Scenes
from dcam_plugins.scenes.coco import run_lengths, write_coco

PROMPT = Scenes("test", 1)[0].prompt
CHANGED = ("--dataset-option", "coco-caption.split=test", "--dataset-option", f"coco-caption.prompt={PROMPT}")


def grandf(folder):
    """One scene as GranDf is published."""
    scene = Scenes("test", 4)[3]
    (folder / "GranDf_HA_images/train").mkdir(parents=True)
    scene.image.save(folder / "GranDf_HA_images/train/scene.jpg", quality=95)
    width, height = scene.image.size
    groundings = {
        f"a {each.colour} {each.shape}": {
            "token_positives": [[0, 1]],
            "rle_masks": [{"size": [height, width], "counts": run_lengths(each.mask.numpy())}],
        }
        for each in scene.objects
    }
    entry = {"file_name": "scene.jpg", "height": height, "width": width, "caption": scene.caption}
    notes = folder / "annotations/train/GranDf_HA_GCG_train.json"
    notes.parent.mkdir(parents=True)
    notes.write_text(json.dumps([{**entry, "groundings": groundings}]))
    return folder


@pytest.fixture
def dcam(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["reproduce", "--model", "tiny-llada-v", "--also", "", "-o", "out", *map(str, arguments)])
        captured = capsys.readouterr()
        assert caught.value.code == 0, captured.err
        return captured.out, json.loads((tmp_path / "out/reproduction.json").read_text())

    return run


def test_both_tables_stand_beside_what_a_shipped_model_gives(dcam, tmp_path):
    write_coco(Scenes("test", 2), tmp_path / "coco")
    coco = ("--dataset", f"coco-caption:{tmp_path / 'coco'}", *CHANGED)
    out, kept = dcam(*coco)
    comparison, missing, ablation = kept["tables"]
    assert missing["measured"] is None
    assert "needs a model (--model) and GranDf (--dataset grandf:FOLDER" in " ".join(out.split())
    for table in (comparison, ablation):
        measured = table["measured"]
        assert (measured["model"], measured["pictures"]) == ("tiny-llada-v", 2)
        assert measured["words"] >= 3
        family, split, size = measured["not_comparable"]
        assert family == "tiny-llada-v is not LaViDa (LLaDA backbone, 8B), it is of the family llada-v"
        assert split == "split is 'test', the published figures are of 'val2014'"
        assert size == "the folder holds 2 pictures, COCO Caption has 40504"
        rows = [row for row in table["rows"] if row["published"]]
        for row in rows:
            assert {*row["found"], *row["missing"]} == {"intended", "released"}
            for column in (each for found in row["found"].values() for each in found.values()):
                assert column["low"] <= column["mean"] <= column["high"]
    assert [row["name"] for row in comparison["rows"]][:4] == [
        "LLaVA-CAM",
        "Grad-CAM",
        "TAM",
        "Diffusion-CAM",
    ]
    rows = {row["name"]: row for row in ablation["rows"]}
    full, shown = rows["Full"], {row["name"]: row for row in comparison["rows"]}["Diffusion-CAM"]
    assert full["found"] == shown["found"], "one method on the same answers"
    # As released, the gating changes nothing; what moves a little is the debiasing, which has no switch of its own.
    for column, change in rows["+ DACG"]["changes"]["released"].items():
        assert abs(change["mean"]) < 1, column
    assert rows["+ SICD"]["changes"].keys() == {"intended"}
    assert "tiny-llada-v, as described" in out
    assert "difference to published" not in out, "of another model and other data no difference is shown"

    # The same call with further data continues: what is finished is not measured again.
    words = (tmp_path / "out/coco-caption/words.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "coco")
    _, kept = dcam(
        *coco,
        "--dataset",
        f"grandf:{grandf(tmp_path / 'grandf')}",
        "--dataset-option",
        f"grandf.prompt={PROMPT}",
    )
    assert (tmp_path / "out/coco-caption/words.jsonl").read_bytes() == words
    assert [kept["tables"][i] for i in (0, 2)] == [comparison, ablation]
    grandf_table = kept["tables"][1]
    assert (grandf_table["measured"]["dataset"], grandf_table["measured"]["pictures"]) == ("grandf", 1)
    assert grandf_table["measured"]["words"] >= 1
    assert len(grandf_table["measured"]["not_comparable"]) == 1, "of GranDf only the model is another one"
