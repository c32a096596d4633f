from ptdpo_cli.cli import main

main()
