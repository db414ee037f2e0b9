"""Tables, plots and the page made from the files of a finished run."""
