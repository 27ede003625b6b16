"""Words of news stories with their parts of speech, for `book/grids/words.yaml`.

    $ python book/studies/words.py            # writes tags.jsonl
    $ sparsebert sweep book/grids/words.yaml

A row is the two opening paragraphs of a story of the task `topics`. No package of an index that we found has
English words which people tagged, under terms that anyone may use. So the tags are those of spaCy's tagger,
and a score says how well an encoder imitates it. The tagger sees four words on each side. The versions in
`requirements.txt` give the tags of the recorded runs.
"""

import json
from pathlib import Path

import spacy

from sparsebert.data.syntax import parser_name
from sparsebert.data.tasks import get_task

stories = [text for rows in get_task("topics").load().values() for text in rows["text"]]
openings = [" ".join(text.split("\n")[1:3]) for text in stories]  # the first line is the headline
tagger = spacy.load(parser_name().partition("-")[0], exclude=["parser", "lemmatizer", "ner"])
with Path("tags.jsonl").open("w", encoding="utf-8") as file:
    for story in tagger.pipe(openings):
        words = [word for word in story if not word.is_space]
        row = {"words": [word.text for word in words], "tags": [word.pos_ for word in words]}
        file.write(json.dumps(row) + "\n")
