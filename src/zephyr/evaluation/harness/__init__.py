"""The field's likelihood, exact-match and instruction tasks: lm-eval's definitions, answered on prefix trees."""
