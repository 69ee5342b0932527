#!/usr/bin/env python3
"""Makes a small world of text and instructions with known answers, for the quickstart and tests.

    scripts/make_world.py --out DIR [--seed 7]

Writes into DIR
    pretrain.txt      plain text: prose about the world, a quiz book, tables, an exercise book
    sft_train.jsonl   instructions: {"instruction", "input", "output", "category"}
    held_out.jsonl    instructions of the same form that are in no other file, for exact match
    world.json        the seed, and how many of each

The world: people (home town, job, favourite food), towns (river, goods) and creatures (food, home),
with names that mean nothing elsewhere; and skills: adding and taking away, writing letters
backwards, sorting, counting, reading a short story.

What is known from where
    facts       All are in pretrain.txt, as prose and as a quiz book ("Question … Answer …", without
                any chat format). sft_train.jsonl asks for half of the facts of each kind; held_out.jsonl
                asks for the other half, which therefore stand in the pretraining text alone. Asking
                for facts that are told only as prose was tried: a model of this size and budget
                learns the prose by heart, yet cannot answer from it.
    arithmetic  The same: pretrain.txt has the whole tables, sft_train.jsonl asks for half of the
                sums, held_out.jsonl for some of the others.
    other skills  Exercises on random material, in pretrain.txt and sft_train.jsonl; held_out.jsonl has
                material that is in neither.
So the held-out facts and sums measure whether what was read in pretraining can be said in a chat,
and the other skills whether they are mastered on what was never seen.

The same seed gives the same bytes: only random.Random(seed).random() is used, which Python keeps
stable. Before anything is written it is asserted that train and held-out are disjoint by
(instruction, input), that training asks for no held-out fact or sum in any wording, and that no
held-out exercise is worked in the text. Answers are a few tokens long. Python's standard library only.
"""

import argparse
import collections
import json
import os
import random

WOMEN = "Ada Clara Edda Greta Ines Karin Mira Nora Pia Sara Ulla Wanda Yara Berta Doris Frida".split()
MEN = "Boris Dorn Felix Hugo Jonas Leo Otto Quinn Rolf Timo Viktor Xaver Zeno Anton Carlo Emil".split()
TOWNS = """Arlen Bremby Calder Dunmoor Elsby Farrow Gilden Hexham Ivory Jessop Kelby Lorne Marsh Norwick
Oakham Penn Quorley Redcar Stowe Tiverton""".split()
CREATURES = """blorn crell drimp flarn glimp hulder jarn krell lorp murn norl plimp quorn rimp snark torl
umber vorn wimple zorn""".split()
JOBS = "baker smith tailor miller fisher teacher painter doctor farmer singer".split()
FOODS = "bread soup apples cheese honey plums rice beans pears cake".split()
RIVERS = "Amber Bright Cold Deep Eel Flint Green Heron".split()
GOODS = "wool salt glass wine paper bells silk clay".split()
DIETS = "moss fish seeds bark roots snails berries grass".split()
HOMES = "caves trees ponds barns hills burrows reeds ruins".split()
LETTERS = "abcdefghijklmnoprstuvw"
WOMEN_OF_STORIES = "Ann Lucy Eve Rose Kate".split()
VISITORS = WOMEN_OF_STORIES + "Tom Sam Max Jack Bill".split()
# What people of the stories do: {n} who, {v} one of the values.
Deed = collections.namedtuple("Deed", "statement question values")
DEEDS = [
    Deed("{n} went to the {v}.", "Where did {n} go?", "market mill garden bridge school forest harbour church".split()),
    Deed("{n} found a {v}.", "What did {n} find?", "cup fox hat key lamp nut pen ring".split()),
    Deed("{n} bought a {v}.", "What did {n} buy?", "drum shoe broom rope spoon chair clock kite".split()),
    Deed("{n} saw a {v}.", "What did {n} see?", "cup fox hat key lamp nut pen ring".split()),
    Deed("{n} lost a {v}.", "What did {n} lose?", "drum shoe broom rope spoon chair clock kite".split()),
]

# A kind of fact: category, entities, values, statements for the prose, questions. {e} entity, {v} value.
Relation = collections.namedtuple("Relation", "category entities values statements questions")
RELATIONS = [
    Relation("people", WOMEN + MEN, TOWNS, ["{e} lives in {v}.", "The home of {e} is in {v}."],
             ["Where does {e} live?", "Name the home town of {e}."]),
    Relation("people", WOMEN + MEN, JOBS, ["{e} works as a {v}.", "By trade {e} is a {v}."],
             ["What is the job of {e}?", "Name the trade of {e}."]),
    Relation("people", WOMEN + MEN, FOODS, ["{e} likes {v} best.", "For dinner {e} wants {v}."],
             ["What does {e} like to eat?", "Name the favourite food of {e}."]),
    Relation("towns", TOWNS, RIVERS, ["{e} lies on the {v} river.", "Through {e} runs the {v} river."],
             ["Which river runs through {e}?", "Name the river of {e}."]),
    Relation("towns", TOWNS, GOODS, ["{e} is known for {v}.", "Traders go to {e} for {v}."],
             ["What is {e} known for?", "Name the goods of {e}."]),
    Relation("creatures", CREATURES, DIETS, ["The {e} eats {v}.", "A hungry {e} looks for {v}."],
             ["What does the {e} eat?", "Name the food of the {e}."]),
    Relation("creatures", CREATURES, HOMES, ["The {e} sleeps in {v}.", "The young of the {e} are born in {v}."],
             ["Where does the {e} sleep?", "Name the home of the {e}."]),
]
Fact = collections.namedtuple("Fact", "relation entity value")

LARGEST = 20          # operand of a sum
PROSE_COPIES = 25     # paragraphs about each entity
QUIZ_COPIES = 30      # of each wording of each question in the quiz book
TABLE_COPIES = 30     # of each line of the tables
BOOK_EXERCISES = {"reversal": 1500, "sorting": 1500, "counting": 1000, "stories": 4000}
TRAIN_EXERCISES = {"reversal": 2000, "sorting": 1500, "counting": 1000, "stories": 2500}
HELD_OUT_EXERCISES = {"reversal": 40, "sorting": 40, "counting": 40, "stories": 40}
HELD_OUT_SUMS = 60


class Dice:
    """Choices made from random() alone, the one part of the random module that is promised to stay."""

    def __init__(self, seed):
        self._random = random.Random(seed).random

    def below(self, n):
        return int(self._random() * n)

    def between(self, low, high):
        return low + self.below(high - low + 1)

    def pick(self, items):
        return items[self.below(len(items))]

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def sample(self, items, n):
        return self.shuffled(items)[:n]


def record(category, instruction, given, answer):
    return {"instruction": instruction, "input": given, "output": answer, "category": category}


# -- facts and tables: known from the pretraining text


def make_facts(dice):
    return [Fact(relation, entity, dice.pick(relation.values)) for relation in RELATIONS for entity in relation.entities]


def ask(fact, question):
    return record(fact.relation.category, question.format(e=fact.entity), "", fact.value)


def tell(dice, facts):
    """A paragraph: all that there is to say of one entity."""
    return " ".join(dice.pick(f.relation.statements).format(e=f.entity, v=f.value) for f in dice.shuffled(facts)) + "\n"


def tell_facts(dice, facts):
    of_entity = collections.defaultdict(list)
    for fact in facts:
        of_entity[fact.entity].append(fact)
    return [tell(dice, told) for _ in range(PROSE_COPIES) for told in of_entity.values()]


def split_facts(dice, facts):
    """Half of each relation for training, half held out."""
    train, held_out = [], []
    for relation in RELATIONS:
        same = dice.shuffled([fact for fact in facts if fact.relation is relation])
        train += same[: len(same) // 2]
        held_out += same[len(same) // 2 :]
    return train, held_out


def tables():
    sums = [(f"What is {a} + {b}?", str(a + b)) for a in range(LARGEST + 1) for b in range(LARGEST + 1)]
    differences = [(f"What is {a} - {b}?", str(a - b)) for a in range(LARGEST + 1) for b in range(a + 1)]
    return [record("arithmetic", question, "", answer) for question, answer in sums + differences]


# -- skills: each makes (instruction, input, answer) on random material


def reversal(dice):
    letters = [dice.pick(LETTERS) for _ in range(dice.between(3, 5))]
    return "Write these letters backwards.", " ".join(letters), " ".join(reversed(letters))


def sorting(dice):
    items = dice.sample([str(n) for n in range(10)] if dice.below(2) else LETTERS[:10], dice.between(3, 5))
    return "Put these in order.", " ".join(items), " ".join(sorted(items))


def counting(dice):
    letters = [dice.pick(LETTERS) for _ in range(dice.between(2, 8))]
    return "How many letters are these?", " ".join(letters), str(len(letters))


def stories(dice):
    """About one person: "Tom went to the mill. He found a cup." Asked is one of two or three deeds."""
    name = dice.pick(VISITORS)
    pronoun = "She" if name in WOMEN_OF_STORIES else "He"
    deeds = [(deed, dice.pick(deed.values)) for deed in dice.sample(DEEDS, dice.between(2, 3))]
    sentences = [deed.statement.format(n=pronoun if i else name, v=v) for i, (deed, v) in enumerate(deeds)]
    asked, answer = dice.pick(deeds)
    return asked.question.format(n=name), " ".join(sentences), answer


SKILLS = {"reversal": reversal, "sorting": sorting, "counting": counting, "stories": stories}


def key_of(exercise):
    return exercise["instruction"], exercise["input"]


def make_exercises(dice, category):
    """Held-out exercises first; training and the exercise book then take anything else."""

    def distinct(count, taken):
        made = []
        while len(made) < count:
            exercise = record(category, *SKILLS[category](dice))
            if key_of(exercise) not in taken:
                taken.add(key_of(exercise))
                made.append(exercise)
        return made

    taken = set()
    held_out = distinct(HELD_OUT_EXERCISES[category], taken)
    train = distinct(TRAIN_EXERCISES[category], set(taken))
    book = []
    while len(book) < BOOK_EXERCISES[category]:
        exercise = record(category, *SKILLS[category](dice))
        if key_of(exercise) not in taken:
            book.append(exercise)
    return train, held_out, book


# -- all of it


FRAMES = ["Question\n{}\nAnswer\n{}\n", "user\n{}\nassistant\n{}\n", "user\n{}\nassistant\n{}\n"]


def as_text(dice, exercise):
    """As it stands in the pretraining text. The answer begins a line, as a reply does in a chat."""
    question = exercise["instruction"] + ("\n" + exercise["input"] if exercise["input"] else "")
    return dice.pick(FRAMES).format(question, exercise["output"])


def make_world(seed):
    dice = Dice(seed)
    facts = make_facts(dice)
    train_facts, held_out_facts = split_facts(dice, facts)
    train = [ask(fact, question) for fact in train_facts for question in fact.relation.questions]
    held_out = [ask(fact, dice.pick(fact.relation.questions)) for fact in held_out_facts]
    quiz = [ask(fact, question) for fact in facts for question in fact.relation.questions]

    table = tables()
    lines = dice.shuffled(table)
    train += lines[: len(lines) // 2]
    held_out += lines[len(lines) // 2 :][:HELD_OUT_SUMS]

    book = []
    for category in SKILLS:
        more_train, more_held_out, more_book = make_exercises(dice, category)
        train += more_train
        held_out += more_held_out
        book += more_book

    check(train, held_out, book, held_out_facts)
    paragraphs = tell_facts(dice, facts) + [as_text(dice, e) for e in quiz * QUIZ_COPIES + table * TABLE_COPIES + book]
    return dice.shuffled(paragraphs), dice.shuffled(train), dice.shuffled(held_out)


def check(train, held_out, book, held_out_facts):
    trained = {key_of(e) for e in train}
    asked = {key_of(e) for e in held_out}
    assert len(trained) == len(train), "a training instruction occurs twice"
    assert len(asked) == len(held_out), "a held-out instruction occurs twice"
    assert not trained & asked, "a held-out instruction is trained on"
    assert not {key_of(e) for e in book} & asked, "a held-out exercise is worked in the text"
    for fact in held_out_facts:
        for question in fact.relation.questions:
            assert (question.format(e=fact.entity), "") not in trained, f"training asks for a held-out fact: {fact}"


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    paragraphs, train, held_out = make_world(arguments.seed)
    os.makedirs(arguments.out, exist_ok=True)
    write_lines(os.path.join(arguments.out, "pretrain.txt"), paragraphs)
    write_lines(os.path.join(arguments.out, "sft_train.jsonl"), map(json.dumps, train))
    write_lines(os.path.join(arguments.out, "held_out.jsonl"), map(json.dumps, held_out))
    summary = {
        "seed": arguments.seed,
        "paragraphs": len(paragraphs),
        "train": dict(sorted(collections.Counter(e["category"] for e in train).items())),
        "held_out": dict(sorted(collections.Counter(e["category"] for e in held_out).items())),
    }
    write_lines(os.path.join(arguments.out, "world.json"), [json.dumps(summary, indent=2)])
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
