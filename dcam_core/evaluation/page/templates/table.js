{% include "pictures.js" %}

{% include "numbers.js" %}

{% include "gallery.js" %}

{% include "word.js" %}

{% include "addresses.js" %}
