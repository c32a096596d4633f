from ptdpo_cli.cli import main

if __name__ == "__main__":  # processes that are spawned, such as vLLM's workers, import this file again
    main()
