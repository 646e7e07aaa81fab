"""Which rows a client has: train as the partition says, and validation in the same proportions."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from datasets import Dataset

from lopsided import LopsidedError
from lopsided.federated.client_rows import own_rows, spread_rows
from lopsided.federated.federation import FederationConfig
from lopsided.runs.inputs import Data
from lopsided.tasks import EncodedTask, Task, encode, get_metric
from tests.tasks.rows import character_tokenizer
from tests.tiny_runs import tiny_config

SIZES = {"train": 400, "validation": 100, "test": 20}


def made_up(domains=("film", "news")):
    """Rows of two classes and two domains; each has its number, in the encoded rows as well."""
    splits = {}
    for split, size in SIZES.items():
        rows = {"text": [f"{split} {n}" for n in range(size)], "label": [n % 2 for n in range(size)]}
        if domains:
            # Three quarters of the first.
            rows["domain"] = [domains[n // 2 % 4 == 3] for n in range(size)]
        splits[split] = Dataset.from_dict(rows)
    metric, labels = get_metric("accuracy"), ("no", "yes")
    task = Task(name="made up", kind="classification", splits=splits, labels=labels, metric=metric)
    ids = {split: Dataset.from_dict({"input_ids": [[n] for n in range(size)]}) for split, size in SIZES.items()}
    return Data(task=task, encoded=EncodedTask(splits=ids, out_of_domain={}), processor=None, seq2seq=False)


def configured(tmp_path, **more):
    run = tiny_config(tmp_path, method="rac_b", steps=None, eval_rows=more.pop("eval_rows", None))
    return FederationConfig(run=run, **{"clients": 4, "rounds": 1, **more})


def numbers(rows, split):
    """The row numbers of a client, which its texts and its encoded rows agree on."""
    encoded = [ids[0] for ids in rows.data.encoded.splits[split]["input_ids"]]
    assert rows.data.task.splits[split]["text"][:] == [f"{split} {n}" for n in encoded]
    return encoded


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({}, ["client-0", "client-1", "client-2", "client-3"]),
        ({"partition": "dirichlet"}, ["client-0", "client-1", "client-2", "client-3"]),
        ({"partition": "domain", "clients": 2}, ["film", "news"]),
    ],
)
def test_every_row_belongs_to_one_client(tmp_path, more, names):
    clients = spread_rows(configured(tmp_path, **more), made_up())
    assert [rows.name for rows in clients] == names
    for split in ("train", "validation"):
        assert sorted(n for rows in clients for n in numbers(rows, split)) == list(range(SIZES[split]))
    assert all(numbers(rows, "test") == list(range(SIZES["test"])) for rows in clients)


def test_domains_stay_apart_in_train_and_in_validation(tmp_path):
    for rows in spread_rows(configured(tmp_path, partition="domain", clients=2), made_up()):
        for split in ("train", "validation"):
            assert set(rows.data.task.splits[split]["domain"]) == {rows.name}


def test_a_client_is_scored_on_the_mix_of_classes_that_it_trains_on(tmp_path):
    for rows in spread_rows(configured(tmp_path, partition="dirichlet", concentration=0.3), made_up()):
        counts = {split: Counter(part["label"]) for split, part in rows.data.task.splits.items()}
        for label in (0, 1):
            # There is a row of validation for every four of train.
            assert abs(counts["validation"][label] - counts["train"][label] / 4) <= 1


def test_fewer_rows_to_score_are_spread_as_well(tmp_path):
    clients = spread_rows(configured(tmp_path, eval_rows=40), made_up())
    assert [len(rows.data.encoded.splits["validation"]) for rows in clients] == [10, 10, 10, 10]
    for rows in clients:
        numbers(rows, "validation")


def of_files(files=("clinic_a", "clinic_b"), shared_validation=False):
    """Rows of two files, of which the second has a quarter; validation has them too, or is everybody's."""
    data = made_up(files)
    splits = {split: rows.rename_column("domain", "file") for split, rows in data.task.splits.items()}
    if shared_validation:
        splits["validation"] = splits["validation"].remove_columns("file")
    return dataclasses.replace(data, task=dataclasses.replace(data.task, splits=splits))


def test_each_client_has_one_file_and_its_name(tmp_path):
    clients = spread_rows(configured(tmp_path, partition="file", clients=2), of_files())
    assert [(rows.name, len(numbers(rows, "train"))) for rows in clients] == [("clinic_a", 300), ("clinic_b", 100)]
    for rows in clients:
        for split in ("train", "validation"):
            assert set(rows.data.task.splits[split]["file"]) == {rows.name}
            numbers(rows, split)


def test_a_validation_of_no_file_is_shared_out_in_proportion(tmp_path):
    clients = spread_rows(configured(tmp_path, partition="file", clients=2), of_files(shared_validation=True))
    counts = [len(numbers(rows, "validation")) for rows in clients]
    assert counts == [75, 25]


@pytest.mark.parametrize("clients", [1, 3])
def test_there_are_as_many_clients_as_files(tmp_path, clients):
    config = configured(tmp_path, partition="file", clients=clients)
    with pytest.raises(LopsidedError, match=rf"{clients} clients, .* 2 files \(clinic_a, clinic_b\).*--clients 2"):
        spread_rows(config, of_files())


def test_texts_that_are_cut_into_pieces_stay_whole_with_their_client(tmp_path):
    """The rows of the model are not those of the task: a text of 40 letters is several of them."""
    texts = {split: [f"{n:02d}" + "x" * (3 + 9 * (n % 5)) for n in range(size)] for split, size in SIZES.items()}
    splits = {split: Dataset.from_dict({"text": rows}) for split, rows in texts.items()}
    task = Task(name="made up", kind="generation", splits=splits, labels=(), metric=get_metric("perplexity"))
    tokenizer = character_tokenizer()
    rows = encode(task, tokenizer, max_length=16)
    assert len(rows.splits["train"]) > 1.5 * SIZES["train"]
    data = Data(task=task, encoded=rows, processor=tokenizer, seq2seq=False)
    clients = spread_rows(configured(tmp_path, eval_rows=40), data)
    for split in ("train", "validation"):
        total = 0
        for client in clients:
            own = client.data.task.splits[split]["text"][:]
            pieces = client.data.encoded.splits[split]["input_ids"][:]
            # A piece repeats the last id of the one before it; the first ids of a text are its number.
            starts = ["".join(tokenizer.convert_ids_to_tokens(ids[:2])) for ids in pieces]
            assert [text[:2] for text in own] == [start for start in starts if start.isdigit()]
            total += len(pieces)
        whole = {"train": len(rows.splits["train"]), "validation": 40}[split]
        assert total == whole if split == "train" else total > whole


@pytest.mark.parametrize(
    ("more", "domains", "match"),
    [
        ({"partition": "domain"}, ("film", "news"), "4 clients, and the rows belong to 2 groups"),
        ({"partition": "domain"}, (), "rows with a column domain, received text, label"),
        ({"partition": "file"}, (), "rows with a column file, received text, label"),
        ({"clients": 401}, ("film", "news"), "401 clients for 400 rows"),
        ({"partition": "dirichlet", "concentration": 0.01}, ("film", "news"), "client|allow"),
    ],
)
def test_partitions_that_do_not_fit(tmp_path, more, domains, match):
    with pytest.raises(LopsidedError, match=match):
        spread_rows(configured(tmp_path, **more), made_up(domains))


def test_a_client_with_a_task_of_its_own_has_all_its_rows(tmp_path, bert, words):
    run = tiny_config(tmp_path, model=bert, task="none", method="rac_b", steps=None)
    config = FederationConfig(run=run, clients=2, rounds=1)
    rows = own_rows(config, words, ("0", "1"), "here")
    assert (rows.name, len(rows.data.encoded.splits["train"])) == ("here", 64)
    with pytest.raises(LopsidedError, match="has the classes 0, 1, the server's no, yes"):
        own_rows(config, words, ("no", "yes"), "here")
