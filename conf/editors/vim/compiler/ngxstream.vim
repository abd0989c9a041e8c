" :compiler ngxstream, then :make: judges the file with ngxstream -t, and jumps to what is wrong.
" g:ngxstream_program and g:ngxstream_options change what is called.
if exists('current_compiler')
  finish
endif
let current_compiler = 'ngxstream'

if exists(':CompilerSet') != 2
  command -nargs=* CompilerSet setlocal <args>
endif

let s:program = get(g:, 'ngxstream_program', 'ngxstream')
let s:options = get(g:, 'ngxstream_options', '-e /dev/null')
execute 'CompilerSet makeprg=' . escape(s:program . ' -t ' . s:options . ' -c %:p:S', ' \|"')

" An error or a warning with its line, the hint behind it, an error that belongs to no line.
CompilerSet errorformat=
      \%W%*[^:]:\ [warn]\ %m\ in\ %f:%l,
      \%E%*[^:]:\ [%*[a-z]]\ %m\ in\ %f:%l,
      \%I%*[^:]:\ [notice]\ %m,
      \%E%*[^:]:\ [%*[a-z]]\ %m,
      \%-G%.%#
