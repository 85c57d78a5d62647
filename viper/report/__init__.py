"""The report of a run: its numbers (`viper.report.collect`), and the page that shows them (`viper.report.page`)."""
