from lopsided.errors import LopsidedError, LopsidedWarning, nearest


def test_classes_are_what_callers_catch():
    assert issubclass(LopsidedError, ValueError)
    assert issubclass(LopsidedWarning, UserWarning)


def test_nearest_names_a_close_one_or_nothing():
    assert nearest("tweet", ["movie", "tweets"]) == " did you mean 'tweets'?"
    assert nearest("zzz", ["movie", "tweets"]) == ""
    assert nearest("zzz", []) == ""
