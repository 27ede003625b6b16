"""What heads look at, against a loop over all pairs of tokens."""

from __future__ import annotations

import pytest
import torch

from sparsebert.data.tasks import get_task
from sparsebert.data.tokenizing import prepare
from sparsebert.errors import InputError
from sparsebert.models.encoders import load_classifier, load_tokenizer
from sparsebert.study.heads import attention_to_copies

PAIRS = """text,text_pair,label
the dog saw the dog,a dog saw it,yes
it rained,the sun did not see the dog and it rained,no
one two one,four,no
"""


def rows_of(workspace, text, max_length=32):
    files = [workspace / f"{name}.csv" for name in ("some", "others")]
    for file in files:
        file.write_text(text)
    return prepare(get_task(f"file:{files[0]},{files[1]}"), "tiny", max_length)["validation"]


def by_loop(rows):
    model = load_classifier("tiny", ["any"]).eval()
    model.set_attn_implementation("eager")
    special = load_tokenizer("tiny").all_special_ids
    paid, tokens = 0, 0
    for row in rows:
        ids, text = row["input_ids"], row["token_type_ids"]
        inputs = {
            name: torch.tensor(row[name])[None] for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        with torch.no_grad():
            attentions = model(**inputs, output_attentions=True).attentions
        for query, token in enumerate(ids):
            copies = [key for key, other in enumerate(ids) if other == token and text[key] != text[query]]
            if token not in special and copies:
                tokens += 1
                paid = paid + torch.stack([layer[0, :, query, copies].sum(-1) for layer in attentions])
    return paid / tokens, tokens


@pytest.mark.parametrize("batch_size", [1, 32])
def test_attention_to_copies_equals_a_loop_over_pairs(workspace, batch_size):
    rows = rows_of(workspace, PAIRS)
    torch.manual_seed(0)
    expected, tokens = by_loop(rows)
    torch.manual_seed(0)
    found = attention_to_copies("tiny", rows, batch_size)
    assert found.tokens == tokens > 5 and expected.shape == found.shares.shape
    torch.testing.assert_close(found.shares, expected)


def test_rows_may_be_longer_than_the_encoder_has_positions_for(workspace):
    longer = f"text,text_pair,label\n{'dog ' * 300},{'dog ' * 300},yes\none,two,no\n"
    assert attention_to_copies("tiny", rows_of(workspace, longer, max_length=600)).tokens > 500


@pytest.mark.parametrize(
    "rows",
    ["text,text_pair,label\none two one,three,yes\nfour,five six,no", "text,label\none one,yes\ntwo,no"],
)
def test_rows_without_copies_in_the_other_text_are_refused(workspace, rows):
    with pytest.raises(InputError, match="take rows of pairs"):
        attention_to_copies("tiny", rows_of(workspace, rows))
