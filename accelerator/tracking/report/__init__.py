"""One page on one run or several, in one file.

``facts`` reads a run's folder, ``stored`` makes one of what a store has, ``curves`` draws, ``page`` writes the HTML.
Nothing on the page is fetched, and nothing on it can run.
"""
