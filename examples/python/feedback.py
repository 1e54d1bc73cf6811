"""AI feedback: answers of a model, ratings of a judge, pairs of the ratings; then training on them."""

import zephyr

answers = zephyr.generate("model", ["How much is 2 + 3?", "Name a colour."], num_completions=4, max_new_tokens=8)
ratings = zephyr.judge(answers, "scripted", aspects=["overall"])
print(ratings.metrics, ratings.file)
ratings = [{"prompt": "How much is 2 + 3?", "answers": [{"text": "5", "score": 5}, {"text": "6", "score": 1}]}]
pairs = zephyr.binarize(ratings, min_gap=1.0)
print(pairs.rows[0]["chosen"], pairs.rows[0]["rejected"])
