"""The command line. Nothing heavy is imported until a verb runs, so that help is instant."""
