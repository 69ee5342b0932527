#!/usr/bin/env python3
"""Makes a small world of text and instructions with known answers, for the quickstart and tests.

    scripts/make_world.py --out DIR [--seed 7]

Writes into DIR
    pretrain.txt      plain text: prose about the world, and an exercise book
    sft_train.jsonl   instructions: {"instruction", "input", "output", "category"}
    sft_test.jsonl    held-out instructions of the same form, to be answered by exact match
    world.json        how many of each, and the seed

The world: people (home town, job, pet, favourite food), towns (river, goods, month of the fair) and
creatures (food, dwelling, number of legs), with names that occur nowhere else; and skills: adding and
taking away, writing letters backwards, sorting, counting, reading a short story.

Facts. Each is told in the prose many times, in many wordings and in changing company, because a
model can only be asked for a fact that it has met in several forms. For half of the facts of each
kind the exercise book and the training instructions ask questions; this teaches what a question is.
The other half are asked only in the held-out set: they can be known from the prose alone.

Skills. The exercise book shows each at work on random material; the instructions ask for it on other
material; the held-out set on material that occurs in neither.

The same seed gives the same bytes: only random.Random(seed).random() is used, which Python keeps
stable. Train and held-out are disjoint by (instruction, input), no held-out fact is asked for in
training, and no held-out exercise is worked in the text: all three are asserted before anything is
written. Answers are a few tokens long. Python's standard library only.
"""

import argparse
import json
import os
import random

PEOPLE = """Ada Boris Clara Dorn Edda Felix Greta Hugo Ines Jonas Karin Leo Mira Nora Otto Pia Quinn Rolf
Sara Timo Ulla Viktor Wanda Xaver Yara Zeno Anton Berta Carlo Doris Emil Frida Gustav Hanna Igor Jutta
Kurt Lydia Marlon Nadia""".split()
TOWNS = "Arlen Bremby Calder Dunmoor Elsby Farrow Gilden Hexham Ivory Jessop Kelby Lorne Marsh Norwick Oakham Penn".split()
CREATURES = """blorn crell drimp flarn glimp hulder jarn krell lorp murn norl plimp quorn rimp snark torl
umber vorn wimple zorn""".split()
JOBS = "baker smith tailor miller fisher teacher painter doctor farmer singer".split()
FOODS = "bread soup apples cheese honey plums rice beans pears cake".split()
RIVERS = "Amber Bright Cold Deep Eel Flint Green Heron".split()
GOODS = "wool salt glass wine paper bells silk clay".split()
DIETS = "moss fish seeds bark roots snails berries grass".split()
DWELLINGS = "caves trees ponds barns hills burrows reeds ruins".split()
THINGS = "cup fox hat key lamp nut pen ring shoe drum".split()
COLOURS = "red blue green black white brown".split()
PLACES = "market mill garden bridge school forest harbour church".split()
LETTERS = "a b c d e f g h i j k l m n o p r s t u v w".split()

# Each relation: its values, statements for the text ({e} entity, {v} value), questions. A statement
# names the entity first: who has only read "Calder is the home of Ada" cannot say where Ada lives.
PEOPLE_RELATIONS = {
    "town": (TOWNS, ["{e} lives in {v}.", "The home of {e} is in {v}.", "{e} comes from the town of {v}.",
                     "The house of {e} stands in {v}.", "You can find {e} in {v}."],
             ["Where does {e} live?", "In which town does {e} live?", "Name the home town of {e}."]),
    "job": (JOBS, ["{e} works as a {v}.", "{e} is a {v}.", "The job of {e} is that of a {v}.",
                   "By trade {e} is a {v}.", "{e} earns a living as a {v}."],
            ["What is the job of {e}?", "What does {e} work as?", "Name the trade of {e}."]),
    "food": (FOODS, ["{e} likes {v} best.", "The favourite food of {e} is {v}.", "{e} eats {v} every day.",
                     "Nothing pleases {e} more than {v}.", "For dinner {e} wants {v}."],
             ["What does {e} like to eat?", "What is the favourite food of {e}?", "Name the food that {e} likes."]),
}
TOWN_RELATIONS = {
    "river": (RIVERS, ["{e} lies on the {v} river.", "Through {e} runs the {v} river.",
                       "The bridge of {e} crosses the {v} river.", "In {e} people swim in the {v} river.",
                       "The river of {e} is the {v} river."],
              ["Which river runs through {e}?", "On which river does {e} lie?", "Name the river of {e}."]),
    "goods": (GOODS, ["{e} is known for {v}.", "{e} sells {v}.", "The workshops of {e} make {v}.",
                      "Traders go to {e} for {v}.", "The town of {e} lives on {v}."],
              ["What is {e} known for?", "What do the workshops of {e} make?", "Name the goods of {e}."]),
}
CREATURE_RELATIONS = {
    "diet": (DIETS, ["The {e} eats {v}.", "The food of the {e} is {v}.", "A {e} lives on {v}.",
                     "Feed a {e} with {v}.", "A hungry {e} looks for {v}."],
             ["What does the {e} eat?", "What do you feed to a {e}?", "Name the food of the {e}."]),
    "dwelling": (DWELLINGS, ["The {e} sleeps in {v}.", "You find the {e} in {v}.", "The {e} makes its nest in {v}.",
                             "The young of the {e} are born in {v}.", "The home of the {e} is in {v}."],
                 ["Where does the {e} sleep?", "Where do you find the {e}?", "Name the home of the {e}."]),
}

TELLINGS = 150         # how often the prose tells each fact
QUIZZES = 30           # how often the exercise book asks each wording of a fact that may be asked
BOOK_EXERCISES = {"arithmetic": 20000, "reversal": 6000, "sorting": 6000, "counting": 8000, "stories": 6000}
TRAIN_EXERCISES = {"arithmetic": 1000, "reversal": 800, "sorting": 800, "counting": 1000, "stories": 1000}
TEST_EXERCISES = {"arithmetic": 40, "reversal": 40, "sorting": 40, "counting": 40, "stories": 40}
TEST_FACTS = {"people": 60, "towns": 16, "creatures": 20}



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


# -- facts


def make_facts(dice):
    """[(category, entity, relation name, value, statements, questions)]"""
    facts = []
    for category, entities, relations in (("people", PEOPLE, PEOPLE_RELATIONS), ("towns", TOWNS, TOWN_RELATIONS),
                                          ("creatures", CREATURES, CREATURE_RELATIONS)):
        for entity in entities:
            for relation, (values, statements, questions) in relations.items():
                facts.append((category, entity, relation, dice.pick(values), statements, questions))
    return facts


def tell_facts(dice, facts):
    """Paragraphs: all that there is to say of one entity, each time in other words and order."""
    of_entity = {}
    for fact in facts:
        of_entity.setdefault(fact[1], []).append(fact)
    return [" ".join(dice.pick(statements).format(e=entity, v=value)
                     for _, _, _, value, statements, _ in dice.shuffled(told))
            for _ in range(TELLINGS) for entity, told in of_entity.items()]


def ask_facts(dice, facts):
    """Half of each relation to train on, in every wording; of the other half some held out."""
    by_relation = {}
    for fact in facts:
        by_relation.setdefault((fact[0], fact[2]), []).append(fact)
    train, candidates = [], []
    for _, same in sorted(by_relation.items()):
        same = dice.shuffled(same)
        half = len(same) // 2
        train += [(fact, question) for fact in same[:half] for question in fact[5]]
        candidates += [(fact, dice.pick(fact[5])) for fact in same[half:]]
    test, left = [], dict(TEST_FACTS)
    for fact, question in dice.shuffled(candidates):
        if left[fact[0]] > 0:
            left[fact[0]] -= 1
            test.append((fact, question))

    def record(fact, question):
        return {"instruction": question.format(e=fact[1]), "input": "", "output": fact[3], "category": fact[0]}

    return [record(*pair) for pair in train], [record(*pair) for pair in test], {(f[1], f[2]) for f, _ in test}


# -- skills: each makes (what must not be met before, instruction, input, answer)


def arithmetic(dice):
    b = dice.below(10)
    if dice.below(2):
        a = dice.between(0, 99 - b)
        question = dice.pick(["What is {a} + {b}?", "How much is {a} plus {b}?"])
        key, c = ("+", a, b), a + b
    else:
        a = dice.between(b, 99)
        question = dice.pick(["What is {a} - {b}?", "How much is {a} minus {b}?"])
        key, c = ("-", a, b), a - b
    return key, question.format(a=a, b=b), "", str(c)


def reversal(dice):
    letters = [dice.pick(LETTERS) for _ in range(dice.between(3, 6))]
    given = " ".join(letters)
    question = dice.pick(["Write these letters backwards.", "Reverse the letters.", "Turn this round."])
    return given, question, given, " ".join(reversed(letters))


def sorting(dice):
    if dice.below(2):
        items = dice.sample([str(n) for n in range(10)], dice.between(3, 5))
        question = dice.pick(["Sort these numbers from small to large.", "Put these numbers in order."])
    else:
        items = dice.sample(LETTERS[:12], dice.between(3, 5))
        question = dice.pick(["Sort these letters by the alphabet.", "Put these letters in order."])
    given = " ".join(items)
    return given, question, given, " ".join(sorted(items))


def counting(dice):
    thing, *others = dice.sample(THINGS, 3)
    n = dice.between(1, 5)
    items = dice.shuffled([thing] * n + [dice.pick(others) for _ in range(dice.between(1, 3))])
    given = " ".join(items)
    question = dice.pick(["How often does {t} occur in this list?", "Count the word {t}."])
    return (thing, given), question.format(t=thing), given, str(n)


def stories(dice):
    people = [dict(zip("nptc", four)) for four in zip(dice.sample(VISITORS, 2), dice.sample(PLACES, 2),
                                                      dice.sample(THINGS, 2), dice.sample(COLOURS, 2))]
    told = ["{n} went to the {p} and found a {c} {t}.", "{n} took a {c} {t} to the {p}."]
    story = " ".join(dice.pick(told).format(**person) for person in people)
    question, answer = dice.pick([("Where was {n}?", "{p}"), ("What did {n} have?", "{t}"),
                                  ("Which colour was the {t}?", "{c}"), ("Who had the {t}?", "{n}")])
    person = dice.pick(people)
    return story, question.format(**person), story, answer.format(**person)


VISITORS = "Tom Ann Sam Lucy Max Eve Jack Rose".split()
SKILLS = {"arithmetic": arithmetic, "reversal": reversal, "sorting": sorting, "counting": counting, "stories": stories}


def make_exercises(dice, category):
    """Held-out exercises first; training and the exercise book then take anything else."""
    make, held_out, test = SKILLS[category], set(), []

    def record(instruction, given, answer):
        return {"instruction": instruction, "input": given, "output": answer, "category": category}

    while len(test) < TEST_EXERCISES[category]:
        key, *exercise = make(dice)
        if key not in held_out:
            held_out.add(key)
            test.append(record(*exercise))
    train, seen = [], set()
    while len(train) < TRAIN_EXERCISES[category]:
        key, *exercise = make(dice)
        if key not in held_out and tuple(exercise[:2]) not in seen:
            seen.add(tuple(exercise[:2]))
            train.append(record(*exercise))
    book = []
    while len(book) < BOOK_EXERCISES[category]:
        key, *exercise = make(dice)
        if key not in held_out:
            book.append(record(*exercise))
    return train, test, book


def print_exercise(record):
    """As it stands in the exercise book."""
    given = record["input"] + "\n" if record["input"] else ""
    return f"{record['instruction']}\n{given}Answer\n{record['output']}\n"


# -- all of it


def make_world(seed):
    dice = Dice(seed)
    facts = make_facts(dice)
    paragraphs = [paragraph + "\n" for paragraph in tell_facts(dice, facts)]
    train, test, held_out_facts = ask_facts(dice, facts)
    book = train * QUIZZES
    for category in SKILLS:
        more_train, more_test, more_book = make_exercises(dice, category)
        train += more_train
        test += more_test
        book += more_book
    paragraphs += map(print_exercise, book)

    asked = {(r["instruction"], r["input"]) for r in train}
    assert len(asked) == len(train), "a training instruction occurs twice"
    held_out = {(r["instruction"], r["input"]) for r in test}
    assert not asked & held_out, "a held-out instruction is trained on"
    assert not {(r["instruction"], r["input"]) for r in book} & held_out, "a held-out instruction is in the exercise book"
    for _, entity, relation, _, _, questions in facts:
        if (entity, relation) in held_out_facts:
            wordings = {(question.format(e=entity), "") for question in questions}
            assert not asked & wordings, f"the held-out fact ({entity}, {relation}) is asked for in training"
    return dice.shuffled(paragraphs), dice.shuffled(train), dice.shuffled(test)


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    paragraphs, train, test = make_world(arguments.seed)
    os.makedirs(arguments.out, exist_ok=True)
    write_lines(os.path.join(arguments.out, "pretrain.txt"), paragraphs)
    write_lines(os.path.join(arguments.out, "sft_train.jsonl"), map(json.dumps, train))
    write_lines(os.path.join(arguments.out, "sft_test.jsonl"), map(json.dumps, test))
    summary = {"seed": arguments.seed, "paragraphs": len(paragraphs), "train": len(train), "test": len(test),
               "test_by_category": {}}
    for record in test:
        summary["test_by_category"][record["category"]] = summary["test_by_category"].get(record["category"], 0) + 1
    write_lines(os.path.join(arguments.out, "world.json"), [json.dumps(summary, indent=2, sort_keys=True)])
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
