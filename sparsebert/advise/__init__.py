"""From labelled texts to a plan that can be relied on: a search, a promise with a bound, what it saves."""
