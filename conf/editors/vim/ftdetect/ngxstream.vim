" Configurations of ngxstream: by their place, or by a modeline (vim: ft=ngxstream).
autocmd BufRead,BufNewFile */etc/ngxstream/*.conf,*/ngxstream/conf.d/*.conf,ngxstream.conf setfiletype ngxstream
