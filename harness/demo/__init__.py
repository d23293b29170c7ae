"""The story that `harness demo` tells: a small real model, eight old skills, one new one, two trainings."""
