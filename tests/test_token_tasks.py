"""Tasks that label words: files, tags at tokens, F1 of entities, runs, records and saved models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CONFIGS
from pydantic import ValidationError
from studies import study
from test_cli import call, options
from test_encoders import save_encoder
from test_finetune import interrupt_at
from test_results import project, run, write  # noqa: F401
from test_syntax import each_tokenizer, tokenizer_of
from transformers import pipeline

from sparsebert.data.rows import Collator, Rows
from sparsebert.data.tasks import get_task
from sparsebert.data.tasks.metrics import METRICS
from sparsebert.data.tasks.prepared import prepared_task
from sparsebert.data.tokenizing import _tags, prepare, write_prepared
from sparsebert.errors import InputError
from sparsebert.models.encoders import load_tokenizer
from sparsebert.study import results
from sparsebert.sweeps import bundling
from sparsebert.training import finetuning as module
from sparsebert.training.finetuning import evaluate, finetune
from sparsebert.training.predictions import WordPredictions
from sparsebert.training.resolved import Run
from sparsebert.training.runs import RunConfig, RunRecord
from sparsebert.training.saving import load

NAMES = ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Kurt")
PLACES = ("London", "New York", "Wien")
SENTENCES = [
    ([*name.split(), "didn't", "live", "in", *place.split(), "."], (len(name.split()), len(place.split())))
    for name in NAMES
    for place in PLACES
]


def tagged(words, sizes, first="B"):
    person, place = sizes
    tags = ["I-PER"] * person + ["O"] * 3 + ["I-LOC"] * place + ["O"]
    tags[0], tags[person + 3] = f"{first}-PER", f"{first}-LOC"
    return list(zip(words, tags, strict=True))


ROWS = [tagged(*sentence) for sentence in SENTENCES]


def columns(rows, separator=" ", between=()):
    return "\n".join(
        "".join(separator.join([word, *between, tag]) + "\n" for word, tag in row) for row in rows
    )


def objects(rows):
    return "".join(
        json.dumps(dict(zip(("words", "tags"), map(list, zip(*row, strict=True)), strict=True))) + "\n"
        for row in rows
    )


@pytest.fixture
def own(workspace):
    def task(*texts, name="own.conll"):
        paths = [workspace / f"{number}{name}" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return get_task(f"file:{','.join(map(str, paths))}")

    return task


@pytest.fixture
def words(small, own):
    """Fields of a run of 4 steps on twelve sentences with names of people and places."""
    del small["train_size"]
    return small | {"task": own(columns(ROWS)).name, "batch_size": 5, "epochs": 2}


# ---- files


def rows_of(task):
    names = np.array(task.label_names)
    return {
        split: [(row["text"], names[row["label"]].tolist()) for row in rows]
        for split, rows in task.load().items()
    }


def test_columns_and_objects_give_the_same_task(own):
    expected = own(objects(ROWS), name="own.jsonl")
    text = columns(ROWS, between=("NNP", "B-NP"))
    others = [
        own(text.replace("\n\n", "\n \n\n-DOCSTART- -X- O O\n\n").replace("\n", "\r\n")),
        own(columns(ROWS, "\t"), name="own.txt"),
        own("-DOCSTART-\n\n" + columns(ROWS, "\t", ("", "x y")).rstrip("\n")),
    ]
    for task in others:
        assert task.data_hash == expected.data_hash and rows_of(task) == rows_of(expected)
    split = rows_of(expected)
    assert sorted(split["train"] + split["validation"]) == sorted(tuple(map(list, zip(*r))) for r in ROWS)  # noqa: B905
    assert expected.sizes == {"train": 10, "validation": 2}
    assert expected.label_names == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    assert expected.metrics == ("entity_f1", "accuracy") and "5 tags of 2 entities" in expected.summary


def test_of_two_files_each_is_a_split(own):
    task = own(columns(ROWS[:9]), columns(ROWS[9:]))
    assert [words for words, _ in rows_of(task)["validation"]] == [words for words, _ in SENTENCES[9:]]


def test_rows_can_be_held_out_to_confirm_a_choice(own):
    task = own(columns(ROWS)).confirmed
    assert task.sizes == {"train": 10, "validation": 1, "test": 1}
    rows = rows_of(task)
    assert sorted(sum(rows.values(), [])) == sorted(sum(rows_of(own(columns(ROWS))).values(), []))  # noqa: RUF017


def test_sentences_that_are_all_the_same_are_refused(own):
    with pytest.raises(InputError, match="too few different texts"):
        own("a B-X\nb O\nc B-Y\n\n" * 3)


def test_tags_for_ends_and_single_words_are_read_as_iob2(own):
    def marked(row, end, single):
        tags = [tag for _, tag in row] + ["O"]
        for (word, tag), after in zip(row, tags[1:], strict=True):
            last = tag != "O" and after != f"I-{tag[2:]}"
            yield word, {"B": single, "I": end}[tag[0]] + tag[1:] if last else tag

    expected = own(columns(ROWS)).data_hash
    assert own(columns(ROWS).replace("LOC", "LOX"), name="types.conll").data_hash != expected
    for end, single in ("ES", "LU"):
        text = columns([marked(row, end, single) for row in ROWS])
        assert f"{single}-PER" in text and own(text, name="marked.conll").data_hash == expected


@pytest.mark.parametrize("tags", [("DET", "NOUN", "O"), ("PER", "O"), ("X-1", "Y-2")])
def test_tags_without_prefixes_are_classes_of_words(own, tags):
    rows = [[(f"w{n}", tags[n % len(tags)]), ("it", tags[0])] for n in range(20)]
    task = own(columns(rows))
    assert (task.metrics, task.label_names) == (("accuracy", "macro_f1"), tuple(sorted(tags)))


OBJECT = '{"words": ["a", "b"], "tags": ["B-X", "O"]}\n'


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("o.conll", "", r"0o\.conll has no sentences; write a word and its tag in each line"),
        ("o.txt", "\n-DOCSTART- O\n\n \n", r"has no sentences"),
        ("o.conll", "a B-X\nb\n", r"line 2: columns: 1, and 2 are needed; write a word and its tag"),
        ("o.conll", "some\nprose\n", r"line 1: columns: 1, and 2 are needed"),
        ("o.conll", "a NN B-X\nb O\n", r"line 2: columns: 2, and 3 are needed"),
        ("o.conll", "a\tB-X\nb O\n", r"line 2: columns: 1, .* tabs between all columns or spaces"),
        ("o.conll", "a B-X\nb\tO\n", r"line 1: columns: 1, .* tabs between all columns or spaces"),
        ("o.conll", "a\tB-X\n\tO\n", r"line 2: an empty word"),
        ("o.conll", "a\tB-X\nb\t\n", r"line 2: an empty tag"),
        ("o.conll", "a O\nb O\n", r"every tag is 'O'; a model needs at least two"),
        ("o.conll", "a B-X\nb O\n\nc X\n", r"line 4: tag 'X' has no B- or I- before it, as others have"),
        ("o.conll", "a B-X\nb O\0\n", r"line 2: a NUL character"),
        ("o.conll", "a B-X\nb O\x07\n", r"line 2: the tag holds a line break"),
        ("o.conll", "a B-X\nb O\n", r"too few different texts .*VALIDATION"),
        ("o.jsonl", OBJECT + '{"words": ["a"], "tags": ["O", "O"]}', r"line 2: 1 words and 2 tags"),
        ("o.jsonl", OBJECT + '{"words": [], "tags": []}', r"line 2: a sentence without words"),
        (
            "o.jsonl",
            OBJECT + '{"words": ["a"], "tags": [0]}',
            r"line 2: words and tags are not both lists of texts; write \{",
        ),
        ("o.jsonl", OBJECT + '{"words": "a", "tags": "O"}', r"line 2: words and tags are not both lists"),
        ("o.jsonl", OBJECT + '{"words": ["a"]}', r"line 2: words and tags are not both lists"),
        ("o.jsonl", OBJECT + '{"text": "a", "label": 1}', r"line 2: words and tags are not both lists"),
        ("o.jsonl", '{"text": "a", "label": 1}\n' + OBJECT, r"line 2: no text"),
        ("o.jsonl", OBJECT + '{"words": ["a", " "], "tags": ["O", "O"]}', r"line 2: an empty word"),
        ("o.jsonl", OBJECT + '{"words": ["\\ud800"], "tags": ["O"]}', r"line 2: .*half of a character"),
        ("o.jsonl", '{"words": ["a"]', r"line 1: not JSON"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(own, name, text, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        own(text, name=name)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_go_together_are_refused_in_one_sentence(own, workspace):
    with pytest.raises(
        InputError, match=r"1own\.conll, line 3: tag 'B-Z' is not in .*0own\.conll, which has"
    ):
        own("a B-X\nb O\n", "a B-X\n\nb B-Z\n")
    (workspace / "bad.conll").write_bytes(b"a B-X\nb\xff O\n")
    with pytest.raises(InputError, match=r"bad\.conll' cannot be read: it is not in UTF-8 \(byte 7\)"):
        get_task(f"file:{workspace / 'bad.conll'}")
    with pytest.raises(InputError, match="must both have words with tags, or neither"):
        get_task(f"file:{workspace / '0own.conll'},{workspace / 'classes.csv'}")


def test_columns_of_other_names_make_no_tags_of_texts(own):
    rows = [{"text": f"t{n}", "label": n % 2, "words": ["a"], "tags": ["O"], "lines": 1} for n in range(10)]
    task = own("".join(json.dumps(row) + "\n" for row in rows), name="own.jsonl")
    assert (task.labelled, task.label_names) == ("texts", ("0", "1"))
    csv = "text,label,lines\n" + "".join(f"t{n},{n % 2},9\n" for n in range(10))
    assert own(csv, name="own.csv").data_hash == task.data_hash


# ---- tokens


@pytest.mark.parametrize("max_length", [9, 32])
def test_the_first_token_of_a_word_has_its_tag(own, max_length):
    odd = [[("naïvely", "B-X"), ("re-entered", "I-X"), ("San José", "B-Y"), ("🙂日本", "O")]]
    task = own(objects(ROWS + odd), objects(odd), name="odd.jsonl")
    tokenizer = load_tokenizer("tiny")
    for split, rows in prepare(task, "tiny", max_length).items():
        texts = task.load()[split]
        expected = {}
        for row in texts:
            encoded = tokenizer(
                [row["text"]], is_split_into_words=True, truncation=True, max_length=max_length
            )
            tags, seen = [], {None}
            for word in encoded.word_ids(0):
                tags.append(-1 if word in seen else row["label"][word])
                seen.add(word)
            expected[tuple(encoded["input_ids"][0])] = tags
        assert len(rows) == len(texts)
        for row in map(rows.__getitem__, range(len(rows))):
            assert row["tags"].tolist() == expected[tuple(row["input_ids"].tolist())]


@each_tokenizer
def test_tags_stand_at_the_first_token_that_shares_a_character_with_the_word(kind):
    words = ["Co-operation", "naïvely", "in", "San José", "isn't", "日本", "🙂", "re-\u0301entered", "."]
    encoding = tokenizer_of(kind)([" ".join(words)]).encodings[0]
    expected, start = [-1] * len(encoding.ids), 0
    for tag, word in enumerate(words):
        its = [
            i
            for i, (low, high) in enumerate(encoding.offsets)
            if max(low, start) < min(high, start + len(word))
        ]
        if its:
            expected[its[0]] = tag
        start += len(word) + 1
    assert _tags(encoding, words, list(range(len(words)))).tolist() == expected


def test_tokens_without_a_tag_count_for_no_loss():
    rows = Rows([3, 2], {"input_ids": np.arange(5), "tags": np.array([-1, 2, -1, -1, 0])})
    batch = Collator(0)([rows[0], rows[1]])
    assert batch["labels"].tolist() == [[-100, 2, -100], [-100, 0, -100]]
    assert rows.select([1]).tokens["tags"].tolist() == [-1, 0]


def test_a_sentence_without_any_token_is_refused(own):
    task = own(columns([*ROWS, [("\u200b", "O")]]))
    with pytest.raises(InputError, match=r"no token for any word of '.u200b'; remove the sentence"):
        prepare(task, "tiny", 32)


# ---- F1 of entities


def entities(tags):
    """As conlleval finds them: (first word, word behind the last, type)."""
    found, before, start = set(), "O", 0
    for place, tag in enumerate([*tags, "O"]):
        goes_on = tag != "O" and tag[0] == "I" and before != "O" and before[2:] == tag[2:]
        if before != "O" and not goes_on:
            found.add((start, place, before[2:]))
        if not goes_on:
            start = place
        before = tag
    return found


def f1_by_hand(labels, predictions):
    true, guessed = (
        {(number, *entity) for number, tags in enumerate(rows) for entity in entities(tags)}
        for rows in (labels, predictions)
    )
    return 2 * len(true & guessed) / (len(true) + len(guessed)) if true & guessed else 0.0


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        ("B-X I-X O B-Y", "B-X I-X O B-Y", 1),
        ("B-X I-X O B-Y", "B-X O O B-Y", 1 / 2),  # one of two, two guessed
        ("B-X B-X O", "B-X I-X O", 0),  # neighbours made one
        ("B-X B-X O", "B-X B-X O", 1),
        ("B-X I-X O", "I-X I-X O", 1),  # I- behind nothing begins an entity
        ("I-X I-X B-X O", "B-X I-X B-X O", 1),  # IOB1 and IOB2
        ("I-X B-X I-Y", "B-X I-X I-Y", 2 / 5),  # three and two, one of them the same
        ("B-X I-Y", "B-X B-Y", 1),  # another type ends an entity
        ("B-X I-X", "B-Y I-Y", 0),
        ("B-X I-X I-X", "B-X I-X O", 0),  # the whole or nothing
        ("O O", "O O", 0),  # nothing to find: 0, as conlleval says
        ("O O", "B-X O", 0),
        ("B-X O", "O O", 0),
        ("O B-X|I-X O", "O B-X|B-X O", 1),  # no entity goes over the end of a sentence
        ("B-a-b I-a-b", "B-a-b I-a-c", 0),
    ],
)
def test_entities_are_counted_as_conlleval_does(labels, predictions, expected):
    rows = [[tags.split() for tags in side.split("|")] for side in (labels, predictions)]
    assert f1_by_hand(*rows) == pytest.approx(expected)
    assert METRICS["entity_f1"](*rows) == pytest.approx(expected)


TAGS = ("B-X", "B-Y", "I-X", "I-Y", "O")
a_word = st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans())
some_rows = st.lists(st.lists(a_word, min_size=1, max_size=8), min_size=1, max_size=5)


def guesses(rows):
    """Rows and logits for (tag, guess, whether a token without a tag follows)."""
    lengths = [sum(1 + more for *_, more in row) for row in rows]
    tags = np.array([tag for row in rows for own, _, more in row for tag in [own] + [-1] * more])
    logits = np.full((len(rows), max(lengths), len(TAGS)), -100.0)
    for place, row in enumerate(rows):
        found = [guess for _, own, more in row for guess in [own] + [0] * more]
        logits[place, : len(found)] = np.eye(len(TAGS))[found]
    return Rows(np.array(lengths), {"input_ids": np.arange(len(tags)), "tags": tags}), logits


@settings(max_examples=60)
@given(some_rows)
def test_predictions_come_back_and_give_the_metrics(given_):
    rows, logits = guesses(given_)
    found = WordPredictions.of(rows, logits, TAGS)
    record = RunRecord.read(
        results.as_line(run(metrics=found.metrics(["entity_f1"]), predictions={"validation": found}))
    )
    again = record.predictions["validation"]
    assert again == found and type(again) is WordPredictions
    pairs = [[(TAGS[tag], TAGS[guess]) for tag, guess, _ in row] for row in given_]
    labels, predictions = ([[pair[side] for pair in row] for row in pairs] for side in (0, 1))
    right = [tag == guess for row in pairs for tag, guess in row]
    assert again.metrics(["entity_f1", "accuracy"]) == pytest.approx(
        {"entity_f1": f1_by_hand(labels, predictions), "accuracy": np.mean(right)}
    )
    assert again.count == len(right) and len(again.correct) == len(given_)
    assert again.correct.mean() == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    "changes",
    [
        {"tags": ["O"]},
        {"classes": 3, "tags": ["B-X", "I-X", "O"]},
        {"words": "AQA="},
        {"words": "%"},
        {"words": "A"},
        {"words": ""},
        {"words": "AgAAAAIA"},
        {"count": 3},
        {"more": 1},
    ],
)
def test_predictions_that_are_not_whole_are_refused(changes):
    whole = WordPredictions.of(*guesses([[(4, 4, True), (0, 1, False)], [(2, 2, False)] * 2]), TAGS)
    with pytest.raises(ValidationError):
        WordPredictions(**whole.model_dump() | changes)


def test_metrics_follow_from_recorded_words_or_are_found(project):  # noqa: F811
    found = WordPredictions.of(*guesses([[(0, 0, False), (4, 4, False)], [(1, 4, True)]]), TAGS)
    parts, metrics = {"validation": found}, found.metrics(["entity_f1", "accuracy"])
    assert metrics == {"entity_f1": pytest.approx(2 / 3), "accuracy": pytest.approx(2 / 3)}
    write(project / "a.jsonl", run(0, metrics=metrics, predictions=parts))
    assert results.check() == []
    for tags in (found.tags, list("abcde")):
        wrong = found.model_copy(update={"tags": tags})
        score = 0.5 if tags == found.tags else 2 / 3
        write(
            project / "a.jsonl",
            run(0, metrics=metrics | {"entity_f1": score}, predictions={"validation": wrong}),
        )
        assert results.check() == ["a.jsonl, line 1: entity_f1 does not follow from the run's predictions"]


# ---- runs


def one_by_one(model, tokenizer, task):
    """The tag of each word's first token, of one sentence at a time."""
    labels, predictions, names = [], [], np.array(task.label_names)
    for row in task.load()["validation"]:
        encoded = tokenizer(
            row["text"], is_split_into_words=True, return_tensors="pt", truncation=True, max_length=32
        )
        with torch.no_grad():
            tags = model(**encoded).logits[0].argmax(-1).tolist()
        places = encoded.word_ids(0)
        firsts = [places.index(word) for word in sorted(set(places) - {None})]
        labels.append(names[row["label"]].tolist())
        predictions.append(names[[tags[first] for first in firsts]].tolist())
    return labels, predictions


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_architecture_is_trained_scored_saved_and_read_again(kind, words, workspace):
    encoder, task = save_encoder(workspace / kind, CONFIGS[kind]), get_task(words["task"])
    fields = words | {"encoder": encoder, "plan": "neighbour(1) | global(cls) @ late"}
    record = finetune(RunConfig(**fields), save_to=workspace / "model")
    assert record.predictions["validation"].tags == list(task.label_names) and record.density < 1
    assert list(record.metrics) == ["entity_f1", "accuracy"]
    assert evaluate(workspace / "model")["metrics"] == record.metrics
    with load(workspace / "model") as sparse:
        assert type(sparse.model).__name__.endswith("ForTokenClassification")
        assert sparse.model.config.id2label == dict(enumerate(task.label_names))
        labels, predictions = one_by_one(sparse.model, load_tokenizer(str(workspace / "model")), task)
    assert record.metrics["entity_f1"] == pytest.approx(f1_by_hand(labels, predictions))
    right = np.concatenate(labels) == np.concatenate(predictions)
    assert record.metrics["accuracy"] == pytest.approx(right.mean())


@pytest.mark.slow
def test_entities_are_learned_and_a_pipeline_names_them(words, workspace):
    learning = {"encoder": "minilm", "epochs": 8, "learning_rate": 1e-3, "plan": "neighbour(2)"}
    record = finetune(RunConfig(**words | learning), save_to=workspace / "model")
    assert record.metrics["entity_f1"] > 0.9
    find = pipeline(
        "token-classification",
        model=load(workspace / "model").model,
        tokenizer=str(workspace / "model"),
        aggregation_strategy="first",
    )
    found = [(one["entity_group"], one["word"]) for one in find("Grace Hopper didn't live in New York .")]
    assert found == [("PER", "grace hopper"), ("LOC", "new york")]


LEARNED = {"target_density": 0.5, "max_distance": 4, "rate": 0.5}


@pytest.mark.parametrize(
    ("plan", "degrees"), [("syntax | neighbour(1) @ 1", None), ("learned | global(cls)", LEARNED)]
)
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(
    words, workspace, monkeypatch, plan, degrees
):
    config = RunConfig(**words | {"plan": plan, "degrees": degrees, "epochs": 3})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_at(patched, 4)
        finetune(config, scratch=workspace / "scratch", checkpoint_seconds=0)
    resumed, whole = finetune(config, scratch=workspace / "scratch"), finetune(config)
    assert resumed.steps == whole.steps == 6
    assert resumed.train_loss == pytest.approx(whole.train_loss, rel=1e-5)
    assert (resumed.predictions, resumed.metrics) == (whole.predictions, whole.metrics)
    if degrees:
        assert whole.learning.hard_density == pytest.approx(0.5, abs=0.05)
        assert set(whole.learning.soft_metrics) == {"entity_f1", "accuracy"}


def test_classes_of_words_are_scored_by_accuracy(small, own):
    rows = [[(word, "long" if len(word) > 3 else "short") for word, _ in row] for row in ROWS]
    record = finetune(RunConfig(**small | {"task": own(columns(rows)).name, "train_size": 8}))
    assert list(record.metrics) == ["accuracy", "macro_f1"]
    found = record.predictions["validation"]
    assert found.correct.mean() == pytest.approx(record.metrics["accuracy"])


def test_a_model_of_words_and_a_task_of_texts_do_not_go_together(small, own, workspace):
    rows = [[(f"w{n}", ("bad", "good")[n % 2]), ("it", "bad")] for n in range(10)]
    finetune(RunConfig(**small | {"task": own(columns(rows)).name, "train_size": 8}), save_to=workspace / "m")
    with pytest.raises(InputError, match=r"labels words, and task 'file:.*classes\.csv' texts"):
        evaluate(workspace / "m", f"file:{workspace / 'classes.csv'}")


def test_several_processes_would_each_predict_the_same(words):
    run = Run.of(RunConfig(**words))
    rows = run.rows(32)
    trainer = module.build_trainer(run.model(), run.config, rows, "fp32")
    trainer.args.per_device_eval_batch_size = 1  # sentences differ in length
    found = module.predict(trainer, run.task, rows["train"])
    assert len(set(rows["train"].lengths)) > 1
    alone = module._logits_alone(trainer, rows["train"])
    assert WordPredictions.of(rows["train"], alone, run.task.label_names) == found


def test_speeds_are_not_compared_on_tasks_of_words(words):
    with pytest.raises(InputError, match="labels words, and this compares runs that label texts"):
        study("against_trainer").bench_finetune(RunConfig(**words))


# ---- prepared data, sweeps and bundles


def test_a_run_from_prepared_data_is_the_run_itself(words, workspace):
    fields = words | {"plan": "syntax | global(cls) @ 1"}
    first = json.loads(call("finetune", *options(fields), "--json").stdout)
    call("prepare", words["task"], "--encoder", "tiny", "--max-length", 32, "--parsed", "--out", "prepared")
    (workspace / "0own.conll").unlink()
    grid = {**fields, "seed": [0, 1]}
    (workspace / "grid.yaml").write_text(json.dumps(grid))
    call("sweep", "grid.yaml", "--prepared", "prepared", "--runs-dir", "others")
    again = json.loads((workspace / "others" / f"{first['name']}.json").read_text())
    for same in ("data_hash", "metrics", "predictions", "train_loss", "density"):
        assert again[same] == first[same]


def test_prepared_tags_that_cannot_be_are_refused(words, workspace):
    place = write_prepared(get_task(words["task"]), "tiny", workspace / "prepared", 32)
    task = prepared_task(words["task"], place.parent)
    assert (task.labelled, task.metrics) == ("words", ("entity_f1", "accuracy"))
    manifest = json.loads((place / "prepared.json").read_text())
    manifest["label_names"].pop()
    (place / "prepared.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="tags holds 4, and there are 4 classes"):
        prepare(prepared_task(words["task"], place.parent), "tiny", 32)


def test_a_bundle_brings_what_the_score_needs(words, workspace, monkeypatch):
    monkeypatch.setattr(bundling, "pip", lambda *arguments: asked.append(arguments) or "stopped")
    for task in (words["task"], f"file:{workspace / 'classes.csv'}"):
        asked = []
        task = task.replace(f"{workspace}/", "")
        (workspace / "grid.yaml").write_text(json.dumps(words | {"task": task}))
        assert "(stopped)" in call("bundle", "grid.yaml", "--out", "b.tar.gz", code=2).stderr
        brought = {name.partition("==")[0] for name in asked[0]}
        assert ({"seqscore", "tabulate"} & brought == {"seqscore", "tabulate"}) == ("conll" in task)
