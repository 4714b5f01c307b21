"""The command line, in this process with a toy family, and in fresh ones where imports are counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import dcam_core
from dcam_core.cli.main import COMMANDS, main
from dcam_core.cli.progress import ProgressBars
from dcam_core.cli.results import result_folder
from dcam_core.errors import UsageError

ROOT = Path(__file__).parents[2]
SHIPPED = "dcam_plugins.plugin,dcam_adapters.llada_v.plugin,dcam_adapters.embedded.plugin"

TOY_PLUGIN = """
from pathlib import Path
from dcam_core.hookspecs import hookimpl

FOLDER = Path(__file__).parent / "checkpoint"

@hookimpl
def dcam_register_adapters(register):
    register("toy", "dcam_core.testing.toy:ToyAdapter", architectures=["ToyLM"])

@hookimpl
def dcam_register_models(register):
    register("tiny-toy", FOLDER, adapter="toy", demo_picture=FOLDER / "demo.png", demo_prompt="the blue moon",
             recipe="toy_plugin:train", dataset="toy-scenes")

@hookimpl
def dcam_register_datasets(register):
    register("toy-scenes", "dcam_plugins.scenes:Scenes")

def train(*, out, dataset, seed):
    out.mkdir()
    (out / "trained.txt").write_text(f"{dataset.__name__} {seed}")
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """An installed toy family with an embedded model; the current directory is empty."""
    (tmp_path / "toy_plugin.py").write_text(TOY_PLUGIN)
    checkpoint, here = tmp_path / "checkpoint", tmp_path / "here"
    checkpoint.mkdir()
    here.mkdir()
    (checkpoint / "config.json").write_text('{"architectures": ["ToyLM"]}')
    Image.linear_gradient("L").resize((40, 30)).save(checkpoint / "demo.png")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(here)
    monkeypatch.setenv("DCAM_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("DCAM_PLUGINS", "dcam_plugins.plugin,toy_plugin")
    monkeypatch.delenv("DCAM_STRICT_PLUGINS", raising=False)
    yield tmp_path
    sys.modules.pop("toy_plugin", None)


@pytest.fixture
def dcam(capsys):
    """Run the command line; gives (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


def explain(picture, *more):
    return [
        "explain",
        picture,
        "--prompt",
        "the blue moon",
        "--model",
        "tiny-toy",
        "--method",
        "grad-cam",
        *more,
    ]


def assert_one_line_error(err, message):
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]


# -- without torch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["plugins"],
        ["plugins", "--json"],
        ["explain", "--help"],
        ["evaluate", "--help"],
    ],
)
def test_light_commands_do_not_import_torch(arguments):
    code = f"""
import sys
from dcam_core.cli import main
try:
    main({arguments!r})
finally:
    heavy = sorted({{"torch", "transformers", "lightning", "matplotlib"}} & set(sys.modules))
    assert not heavy, heavy
"""
    environment = {**os.environ, "DCAM_DISABLE_PLUGIN_AUTOLOAD": "1", "DCAM_PLUGINS": SHIPPED}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_python_m_dcam_core():
    done = subprocess.run(
        [sys.executable, "-m", "dcam_core", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"dcam {dcam_core.__version__}\n"


def test_help_lists_every_command(dcam):
    code, out, _ = dcam("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"  {command} " in out


# -- usage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explian"], "No such command 'explian'"),
        (["explain"], "Missing argument 'IMAGE'"),
        (["explain", "x.png"], "Missing option '--prompt'"),
        (["--colour"], "No such option"),
        (["demo", "--seed", "1"], "No such option"),
        (["train-embedded", "toy"], "Missing option '-o' / '--out'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(toy, dcam, arguments, message):
    code, out, err = dcam(*arguments)
    assert (code, out) == (2, "")
    assert_one_line_error(err, message)
    assert "--help`" in err


# -- explain and demo ----------------------------------------------------------------------------------------


def test_explain_writes_a_folder_and_prints_the_report(toy, dcam):
    code, out, err = dcam(*explain(toy / "checkpoint/demo.png", "--out", "result", "probe_layer=0"))
    assert code == 0, err
    assert out == f"{Path('result/report.html')}\n"
    assert err.startswith("answer: ")
    facts = json.loads(Path("result/explanation.json").read_text())
    assert facts["settings"]["probe_layer"] == "blocks.0"
    assert Path("result/report.html").is_file()


def test_explain_one_target_by_seed_and_sampler_setting(toy, dcam):
    _, _, err = dcam(*explain(toy / "checkpoint/demo.png", "-t", "all", "--out", "all"))
    word = json.loads(Path("all/explanation.json").read_text())["targets"][0]["word"]
    code, _, err = dcam(
        *explain(toy / "checkpoint/demo.png", "-t", f"{word}#1", "--seed", 3, "sampler.steps=4", "-o", "one")
    )
    assert code == 0, err
    facts = json.loads(Path("one/explanation.json").read_text())
    assert (len(facts["targets"]), facts["seed"], facts["settings"]["sampler"]["steps"]) == (1, 3, 4)


def test_what_replays_take_of_memory_does_not_change_the_maps(toy, dcam):
    picture = toy / "checkpoint/demo.png"
    frugal = ("--states-per-forward", "1", "--targets-per-backward", "2", "--checkpointing", "--offload")
    found = []
    for out, more in (("plain", ()), ("frugal", frugal), ("fitting", ("--states-per-forward", "auto"))):
        code, _, err = dcam(*explain(picture, "-t", "all", "--out", out, *more))
        assert code == 0, err
        found.append(dcam_core.load_explanation(out).pictures[0].maps)
    assert all((maps - found[0]).abs().max() <= 1e-5 for maps in found)
    code, _, err = dcam(*explain(picture, "--states-per-forward", "few"))
    assert code == 2
    assert_one_line_error(err, "'few' is neither a number of at least 1 nor 'auto'")


def test_words_that_do_not_depend_on_the_picture_get_a_number_and_no_map(toy, dcam):
    """The toy is not trained: none of its words does."""
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png", "--out", "none"))
    assert code == 0, err
    facts = json.loads(Path("none/explanation.json").read_text())
    words = [item["word"] for item in facts["reliance"]["words"]]
    assert facts["targets"] == []
    assert words
    assert facts["reliance"]["baselines"] == ["mean-colour", "blur"]
    assert f"not grounded in the picture: {', '.join(dict.fromkeys(words))}" in err
    more = ["--grounded-above", -1, "--baseline", "blur", "--out", "low"]
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png", *more))
    assert code == 0, err
    facts = json.loads(Path("low/explanation.json").read_text())
    assert [item["word"] for item in facts["targets"]] == words
    assert facts["reliance"]["baselines"] == ["blur"]
    assert all(isinstance(target["reliance"], float) for target in facts["targets"])
    assert f"{facts['targets'][0]['reliance']:.1f} nats" in err
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png", "--baseline", "none", "--out", "off"))
    assert code == 0, err
    facts = json.loads(Path("off/explanation.json").read_text())
    assert "reliance" not in facts
    assert [item["word"] for item in facts["targets"]] == words


def test_a_given_answer_another_word_and_a_contrast(toy, dcam):
    picture = toy / "checkpoint/demo.png"
    text = ["--answer", "a red circle and a green star", "-t", "circle"]
    found, told = {}, {}
    for name, more in {
        "plain": [],
        "not": ["--why-not", "square"],
        "rather": ["--rather-than", "square"],
    }.items():
        code, _, err = dcam(*explain(picture, *text, *more, "--out", name, "probe_layer=0"))
        assert code == 0, err
        told[name] = err
        found[name] = json.loads(Path(name, "explanation.json").read_text())
    assert found["plain"]["answer"] == "a red circle and a green star"
    assert found["not"]["answer"] == "a red square and a green star"
    assert told["plain"].startswith("answer that was given: ")
    assert told["not"].startswith("answer with 'square' in the place of 'circle': ")
    assert "  circle rather than square: " in told["rather"]
    assert "rather than square</small>" in Path("rather/report.html").read_text()
    assert [found[name]["targets"][0]["word"] for name in found] == ["circle", "square", "circle"]
    scores = {name: facts["targets"][0]["score"] for name, facts in found.items()}
    # The state is the same, the word alone is hidden: so the logits are, and the contrast is their difference.
    assert scores["rather"] == pytest.approx(scores["plain"] - scores["not"], abs=1e-4)
    assert found["rather"]["settings"]["gradient_target"]["against"] == "square"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--why-not", "square"], "name it with -t"),
        (["--baseline", "grey"], "neither one of mean-colour, blur nor a file"),
        (["--answer", " "], "the answer that was given is empty"),
        (["--answer", "a purple circle"], "'purple'"),
        (["--answer", "a red <stop>"], "special token '<stop>'"),
        (["--answer", "a red circle", "-t", "a", "mask_step=commit"], "use mask_step=infill"),
        (["--answer", "a red circle", "-t", "a", "mask_step=2"], "the run has 0 steps"),
    ],
)
def test_wrong_wishes_about_the_answer_are_one_line(toy, dcam, more, message):
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png", *more))
    assert code == 2
    assert_one_line_error(err, message)


def test_explain_animates_words_over_the_denoising(toy, dcam):
    picture = toy / "checkpoint/demo.png"
    code, _, err = dcam(*explain(picture, "-t", "@1", "--animate", "--frames", 3, "--out", "moving"))
    assert code == 0, err
    (animation,) = Path("moving").glob("over-time-00-*.gif")
    with Image.open(animation) as opened:
        assert opened.n_frames in (3, 4), "first, middle, finished, and the step that decided it"
    code, _, err = dcam(*explain(picture, "--animate", "--answer", "a red circle", "--out", "given"))
    assert code == 2
    assert_one_line_error(err, "--answer gives the answer, so no denoising step wrote it")


def test_model_may_be_a_folder(toy, dcam):
    arguments = ["explain", toy / "checkpoint/demo.png", "--prompt", "moon", "--method", "grad-cam"]
    code, out, err = dcam(*arguments, "--model", toy / "checkpoint")
    assert code == 0, err
    assert out == f"{Path('dcam-demo/report.html')}\n"


def test_several_pictures_in_one_prompt(toy, dcam):
    Image.new("RGB", (20, 50), "navy").save(toy / "tall.png")
    picture = toy / "checkpoint/demo.png"
    code, _, err = dcam(*explain(picture, "--with-picture", toy / "tall.png", "-t", "all", "-o", "two"))
    assert code == 0, err
    facts = json.loads(Path("two/explanation.json").read_text())
    assert [tuple(one["picture"].values()) for one in facts["pictures"]] == [(40, 30), (20, 50)]
    shares = [one["evidence_share"] for one in facts["targets"][0]["pictures"]]
    assert f", evidence {shares[0]:.0%} in picture 0, {shares[1]:.0%} in picture 1" in err


def test_a_further_picture_is_read_before_the_model_is_loaded(toy, dcam):
    picture = toy / "checkpoint/demo.png"
    more = ["--model", "no-such-model"]
    code, _, err = dcam(*explain(picture, "--with-picture", "nowhere.png", *more))
    assert code == 2
    assert_one_line_error(err, "picture nowhere.png does not exist")
    code, _, err = dcam(*explain(picture, picture, *more))
    assert code == 2
    assert_one_line_error(err, f"--with-picture {picture}")


def test_default_folders_never_collide(toy, dcam):
    arguments = explain(toy / "checkpoint/demo.png")
    assert [dcam(*arguments)[1] for _ in range(3)] == [
        f"{Path(folder, 'report.html')}\n" for folder in ("dcam-demo", "dcam-demo-2", "dcam-demo-3")
    ]


def test_print_config_prints_the_merged_configuration_only(toy, dcam):
    code, out, err = dcam(*explain(toy / "checkpoint/demo.png", "--print-config", "mask_step=infill"))
    assert code == 0, err
    assert "mask_step: infill" in out
    assert "probe_layer: blocks." in out
    assert list(Path().iterdir()) == []


def test_demo_explains_the_picture_of_the_embedded_model(toy, dcam):
    code, out, err = dcam("demo", "--out", "shown")
    assert code == 0, err
    assert out == f"{Path('shown/report.html')}\n"
    assert json.loads(Path("shown/explanation.json").read_text())["prompt"] == "the blue moon"


def test_demo_without_a_model_says_so(toy, dcam):
    code, _, err = dcam("-p", "no:toy_plugin", "demo")
    assert code == 1
    assert_one_line_error(err, "no plugin offers a model with a demo picture")


@pytest.fixture
def pictures(toy):
    (toy / "text.png").write_text("not a picture")
    (toy / "empty.png").write_bytes(b"")
    (toy / "nothing").mkdir()
    (toy / "cut.png").write_bytes((toy / "checkpoint/demo.png").read_bytes()[:60])
    return toy


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("nowhere.png", "does not exist"),
        ("nothing", "holds no picture"),
        ("text.png", "is not a picture that can be read"),
        ("empty.png", "is not a picture that can be read"),
        ("cut.png", "cannot be read"),
    ],
)
def test_a_bad_picture_is_refused_before_the_model_is_loaded(pictures, dcam, picture, message):
    code, out, err = dcam(*explain(pictures / picture, "--model", "no-such-model"))
    assert (code, out) == (2, "")
    assert_one_line_error(err, message)
    assert picture.strip(".") in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "gradcam"], "unknown method 'gradcam'"),
        (["--method", "nowhere.yaml"], "method file nowhere.yaml does not exist"),
        (["--target", "elephant"], "elephant"),
        (["--adapter", "tpy"], "unknown adapter 'tpy': there are toy. Did you mean 'toy'?"),
        (["--model", "tiny-tyo"], "unknown model 'tiny-tyo'"),
        (["--dtype", "float12"], "dtype 'float12' is not one of float32"),
        (["--device", "toaster"], "device 'toaster' cannot be used"),
        (["--seed", "-1"], "-1"),
        (["maskstep=first"], "unknown setting 'maskstep'"),
        (["mask_step"], "setting 'mask_step' is not key=value"),
        (["mask_step=sometimes"], "mask_step 'sometimes'"),
        (["sampler.stepps=3"], "unknown sampler setting 'sampler.stepps'"),
        (["probe_layer=99"], "99"),
        (["refiners.sharpen={}"], "unknown refiner 'sharpen'"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_code_2(toy, dcam, more, message):
    code, out, err = dcam(*explain(toy / "checkpoint/demo.png", *more))
    assert (code, out) == (2, "")
    assert_one_line_error(err, message)
    assert list(Path().iterdir()) == []


def test_an_unknown_word_lists_the_words_of_the_answer(toy, dcam):
    dcam(*explain(toy / "checkpoint/demo.png", "-t", "all", "--out", "all"))
    words = {target["word"] for target in json.loads(Path("all/explanation.json").read_text())["targets"]}
    _, _, err = dcam(*explain(toy / "checkpoint/demo.png", "--target", "elephant"))
    assert all(word in err for word in words)


def test_a_folder_that_is_no_checkpoint_is_a_failure(toy, dcam):
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png", "--model", "."))
    assert code == 1
    assert_one_line_error(err, "no config.json")


def test_an_output_folder_that_holds_something_is_refused_before_the_model_is_loaded(toy, dcam):
    (Path("full")).mkdir()
    Path("full/mine.txt").write_text("mine")
    more = ["--model", "no-such-model", "--out"]
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png", *more, "full"))
    assert code == 2
    assert_one_line_error(err, "output folder full is not empty")
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png", *more, "full/mine.txt"))
    assert code == 2
    assert_one_line_error(err, "is a file")
    assert Path("full/mine.txt").read_text() == "mine"


# -- plugins -------------------------------------------------------------------------------------------------


def test_plugins_lists_what_each_offers(toy, dcam):
    code, out, _ = dcam("plugins")
    assert code == 0
    assert "toy_plugin (module toy_plugin): loaded" in out
    assert "  models: tiny-toy" in out


def test_plugins_as_json(toy, dcam):
    _, out, _ = dcam("plugins", "--json")
    listed = {info["name"]: info for info in json.loads(out)}
    assert listed["toy_plugin"]["offers"]["adapters"] == ["toy"]
    assert listed["toy_plugin"]["failure"] is None
    assert "dcam_register_models" in listed["toy_plugin"]["hooks"]


def test_a_broken_plugin_stays_in_the_list_with_its_cause(toy, dcam, monkeypatch):
    (toy / "broken_plugin.py").write_text("import no_such_module_at_all\n")
    monkeypatch.setenv("DCAM_PLUGINS", "broken_plugin,toy_plugin")
    code, out, err = dcam("plugins")
    assert (code, err) == (0, "`dcam -vv plugins` shows the tracebacks of those that failed\n")
    assert "broken_plugin (module broken_plugin): failed" in out
    assert "failed to import: ModuleNotFoundError: No module named 'no_such_module_at_all'" in out
    assert "Traceback" not in out
    assert "Traceback" in dcam("-vv", "plugins")[1]
    (broken,) = [info for info in json.loads(dcam("plugins", "--json")[1]) if info["status"] == "failed"]
    assert broken["failure"]["phase"] == "import"


def test_a_broken_plugin_is_one_warning_elsewhere(toy, dcam, monkeypatch):
    (toy / "broken_plugin.py").write_text("import no_such_module_at_all\n")
    monkeypatch.setenv("DCAM_PLUGINS", "dcam_plugins.plugin,broken_plugin,toy_plugin")
    code, _, err = dcam(*explain(toy / "checkpoint/demo.png"))
    assert code == 0
    assert err.count("warning: ") == 1
    assert err.startswith("warning: plugin 'broken_plugin' failed to import")


def test_plugins_are_switched_on_and_off_and_the_later_switch_holds(toy, dcam, monkeypatch):
    monkeypatch.delenv("DCAM_PLUGINS")

    def loaded(*switches):
        listed = json.loads(dcam(*switches, "plugins", "--json")[1])
        return [info["name"] for info in listed if info["status"] == "loaded"]

    assert loaded() == []
    assert loaded("-p", "toy_plugin") == ["toy_plugin"]
    assert loaded("-p", "toy_plugin", "-p", "no:TOY-plugin") == []
    assert loaded("-p", "no:toy_plugin", "-p", "toy_plugin") == ["toy_plugin"]


def test_a_plugin_asked_for_by_name_must_load(toy, dcam):
    code, _, err = dcam("-p", "no_such_plugin", "plugins")
    assert code == 1
    assert_one_line_error(err, "plugin 'no_such_plugin' failed to import")


def test_plugin_calls_can_be_traced(toy, dcam, monkeypatch, caplog):
    monkeypatch.setenv("DCAM_TRACE_PLUGINS", "1")
    dcam(*explain(toy / "checkpoint/demo.png"))
    assert "dcam_mask_step" in caplog.text


# -- parity and training -------------------------------------------------------------------------------------


def test_parity_refuses_a_folder_that_is_no_fixture(toy, dcam):
    code, _, err = dcam("parity", ".")
    assert code == 2
    assert_one_line_error(err, "no parity fixture")


@pytest.mark.parametrize(("error", "expected"), [(1e-7, 0), (1.0, 1), (None, 0)])
def test_parity_exit_code_tells_whether_all_is_within_tolerance(toy, dcam, monkeypatch, error, expected):
    from dcam_core import parity

    quantities = [parity.Quantity("logits", 0.0, 1e-5), parity.Quantity("hidden.0", error, 1e-5)]
    monkeypatch.setattr(parity, "compare", lambda folder, *, manager: quantities)
    code, out, _ = dcam("parity", ".")
    assert code == expected
    assert out.splitlines() == [str(quantity) for quantity in quantities]


def test_train_embedded_runs_the_recipe_on_the_registered_dataset(toy, dcam):
    code, out, err = dcam("train-embedded", "Toy", "--out", "trained", "--seed", 5)
    assert (code, out) == (0, "trained\n"), err
    assert Path("trained/trained.txt").read_text() == "Scenes 5"


def test_train_embedded_lists_the_families_that_have_a_recipe(toy, dcam):
    code, _, err = dcam("train-embedded", "tyo", "--out", "trained")
    assert code == 2
    assert_one_line_error(
        err, "unknown family with a training recipe 'tyo': there are toy. Did you mean 'toy'?"
    )


# -- failures ------------------------------------------------------------------------------------------------


@pytest.fixture
def failing(toy, monkeypatch):
    """A recipe that raises what is set."""
    import importlib

    plugin = importlib.import_module("toy_plugin")

    def fail_with(error):
        def train(**arguments):
            raise error

        monkeypatch.setattr(plugin, "train", train)

    return fail_with


def test_a_defect_is_one_line_and_the_traceback_is_shown_on_demand(failing, dcam):
    failing(ZeroDivisionError("by\nzero"))
    code, _, err = dcam("train-embedded", "toy", "--out", "x")
    assert code == 1
    assert_one_line_error(err, "unexpected ZeroDivisionError: by zero; `dcam -vv ...` shows the traceback")
    code, _, err = dcam("-vv", "train-embedded", "toy", "--out", "x")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "error: unexpected ZeroDivisionError: by zero"


def test_an_interrupt_is_one_line_and_exit_code_130(failing, dcam):
    failing(KeyboardInterrupt())
    code, _, err = dcam("train-embedded", "toy", "--out", "x")
    assert code == 130
    assert_one_line_error(err, "interrupted")


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from dcam_core.cli import main; main(['plugins', '--json'])"
    environment = {**os.environ, "DCAM_DISABLE_PLUGIN_AUTOLOAD": "1", "DCAM_PLUGINS": SHIPPED}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-u", "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.stderr == b""


# -- pieces --------------------------------------------------------------------------------------------------


def test_an_empty_output_folder_is_fine(tmp_path):
    assert result_folder(str(tmp_path), "unused") == tmp_path
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        result_folder(str(tmp_path / "file"), "unused")


def test_progress_draws_nothing_where_stderr_is_no_terminal(capsys):
    with ProgressBars() as progress:
        progress("denoising", 1, 4)
        progress("explaining", 1, 2)
        progress("explaining", 2, 2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
