"""The command line: `fashiondpo data|pretrain|generate|score|pairs|train|gate|evaluate|adapters|round`."""
