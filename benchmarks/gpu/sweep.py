from .child import Child


def main() -> None:
    Child.of_command_line()


if __name__ == "__main__":
    main()
