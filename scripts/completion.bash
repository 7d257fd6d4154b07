# Bash completion of the three programs' subcommands, options and configuration keys.   usage: source scripts/completion.bash
# They come from the programs themselves (--help, --dump-config=keys), so they fit the installed version; the options'
# values are listed here.
_shallowpi() {
  local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} subcommand words
  local subcommands=$("$program" --help 2>/dev/null | sed -nE '/^Subcommands:/,/^$/s/^  ([a-z-]+).*/\1/p')
  subcommand=$(grep -xF -- "${COMP_WORDS[1]}" <<<"$subcommands")
  case $previous in
    --engine) words="auto eager graph" ;;
    --chunking) words="receding ensemble rtc" ;;
    --mode) words="all ensemble receding rtc" ;;
    --rank-by) words="velocity action" ;;
    --render) words="on-demand always" ;;
    --protocol) words="openpi lerobot" ;;
    --to) words="openpi lerobot" ;;
    --device) words="auto cpu cuda:0" ;;
    --dtype) words="auto float32 bfloat16" ;;
    --log-level) words="debug info warning error off" ;;
    --model) words="pi0 pi05" ;;
    --size) words="full tiny" ;;
    --sweep) words="layers= vision-tokens=" ;;
    --config | --held-out | --checkpoint | --teacher | --data | --batch | --input | --output | --out | --json | --init-only | =)
      COMPREPLY=($(compgen -f -- "${word#=}"))
      compopt -o filenames
      return
      ;;
    *)
      if [[ $word == -* ]]; then
        words=$("$program" $subcommand --help 2>/dev/null | grep -oE '^  (-h,)?--[a-z0-9-]+' | grep -oE -- '--[a-z0-9-]+')
      elif [[ $program == *distill && -z $subcommand ]]; then
        words="$("$program" --dump-config=keys 2>/dev/null | sed 's/$/=/') $subcommands"
        compopt -o nospace
      elif [[ $COMP_CWORD -eq 1 ]]; then
        words=$subcommands
      else
        COMPREPLY=($(compgen -f -- "$word"))
        compopt -o filenames
        return
      fi
      ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _shallowpi shallowpi-distill shallowpi-eval shallowpi-infer
