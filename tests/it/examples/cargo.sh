#!/bin/sh
# In place of cargo for those who follow a document: `run` and `install` use the program beside this file.
program=$(dirname "$0")/hookgate
case $1 in
    install) mkdir -p "$HOME/.cargo/bin" && ln -sf "$program" "$HOME/.cargo/bin/hookgate" ;;
    run)
        while [ "$1" != -- ]; do shift; done
        shift
        exec "$program" "$@"
        ;;
    *) exit 2 ;;
esac
