"""The countries of the legacy GeoIP databases, in the order of their numbers.

Facts, not code: a record of such a database is a number, and these are the words it stands for.
One line each: continent, two letters, three letters, name. Number 0 is "unknown" and has no line.
"""

from typing import Final, NamedTuple


class Country(NamedTuple):
    """One country, or a region that is counted as one."""

    continent: str
    code: str
    code3: str
    name: str


_LINES: Final = """\
AS AP AP Asia/Pacific Region
EU EU EU Europe
EU AD AND Andorra
AS AE ARE United Arab Emirates
AS AF AFG Afghanistan
NA AG ATG Antigua and Barbuda
NA AI AIA Anguilla
EU AL ALB Albania
AS AM ARM Armenia
NA CW CUW Curacao
AF AO AGO Angola
AN AQ ATA Antarctica
SA AR ARG Argentina
OC AS ASM American Samoa
EU AT AUT Austria
OC AU AUS Australia
NA AW ABW Aruba
AS AZ AZE Azerbaijan
EU BA BIH Bosnia and Herzegovina
NA BB BRB Barbados
AS BD BGD Bangladesh
EU BE BEL Belgium
AF BF BFA Burkina Faso
EU BG BGR Bulgaria
AS BH BHR Bahrain
AF BI BDI Burundi
AF BJ BEN Benin
NA BM BMU Bermuda
AS BN BRN Brunei Darussalam
SA BO BOL Bolivia
SA BR BRA Brazil
NA BS BHS Bahamas
AS BT BTN Bhutan
AN BV BVT Bouvet Island
AF BW BWA Botswana
EU BY BLR Belarus
NA BZ BLZ Belize
NA CA CAN Canada
AS CC CCK Cocos (Keeling) Islands
AF CD COD Congo, The Democratic Republic of the
AF CF CAF Central African Republic
AF CG COG Congo
EU CH CHE Switzerland
AF CI CIV Cote D'Ivoire
OC CK COK Cook Islands
SA CL CHL Chile
AF CM CMR Cameroon
AS CN CHN China
SA CO COL Colombia
NA CR CRI Costa Rica
NA CU CUB Cuba
AF CV CPV Cape Verde
AS CX CXR Christmas Island
AS CY CYP Cyprus
EU CZ CZE Czech Republic
EU DE DEU Germany
AF DJ DJI Djibouti
EU DK DNK Denmark
NA DM DMA Dominica
NA DO DOM Dominican Republic
AF DZ DZA Algeria
SA EC ECU Ecuador
EU EE EST Estonia
AF EG EGY Egypt
AF EH ESH Western Sahara
AF ER ERI Eritrea
EU ES ESP Spain
AF ET ETH Ethiopia
EU FI FIN Finland
OC FJ FJI Fiji
SA FK FLK Falkland Islands (Malvinas)
OC FM FSM Micronesia, Federated States of
EU FO FRO Faroe Islands
EU FR FRA France
NA SX SXM Sint Maarten (Dutch part)
AF GA GAB Gabon
EU GB GBR United Kingdom
NA GD GRD Grenada
AS GE GEO Georgia
SA GF GUF French Guiana
AF GH GHA Ghana
EU GI GIB Gibraltar
NA GL GRL Greenland
AF GM GMB Gambia
AF GN GIN Guinea
NA GP GLP Guadeloupe
AF GQ GNQ Equatorial Guinea
EU GR GRC Greece
AN GS SGS South Georgia and the South Sandwich Islands
NA GT GTM Guatemala
OC GU GUM Guam
AF GW GNB Guinea-Bissau
SA GY GUY Guyana
AS HK HKG Hong Kong
AN HM HMD Heard Island and McDonald Islands
NA HN HND Honduras
EU HR HRV Croatia
NA HT HTI Haiti
EU HU HUN Hungary
AS ID IDN Indonesia
EU IE IRL Ireland
AS IL ISR Israel
AS IN IND India
AS IO IOT British Indian Ocean Territory
AS IQ IRQ Iraq
AS IR IRN Iran, Islamic Republic of
EU IS ISL Iceland
EU IT ITA Italy
NA JM JAM Jamaica
AS JO JOR Jordan
AS JP JPN Japan
AF KE KEN Kenya
AS KG KGZ Kyrgyzstan
AS KH KHM Cambodia
OC KI KIR Kiribati
AF KM COM Comoros
NA KN KNA Saint Kitts and Nevis
AS KP PRK Korea, Democratic People's Republic of
AS KR KOR Korea, Republic of
AS KW KWT Kuwait
NA KY CYM Cayman Islands
AS KZ KAZ Kazakhstan
AS LA LAO Lao People's Democratic Republic
AS LB LBN Lebanon
NA LC LCA Saint Lucia
EU LI LIE Liechtenstein
AS LK LKA Sri Lanka
AF LR LBR Liberia
AF LS LSO Lesotho
EU LT LTU Lithuania
EU LU LUX Luxembourg
EU LV LVA Latvia
AF LY LBY Libya
AF MA MAR Morocco
EU MC MCO Monaco
EU MD MDA Moldova, Republic of
AF MG MDG Madagascar
OC MH MHL Marshall Islands
EU MK MKD Macedonia
AF ML MLI Mali
AS MM MMR Myanmar
AS MN MNG Mongolia
AS MO MAC Macau
OC MP MNP Northern Mariana Islands
NA MQ MTQ Martinique
AF MR MRT Mauritania
NA MS MSR Montserrat
EU MT MLT Malta
AF MU MUS Mauritius
AS MV MDV Maldives
AF MW MWI Malawi
NA MX MEX Mexico
AS MY MYS Malaysia
AF MZ MOZ Mozambique
AF NA NAM Namibia
OC NC NCL New Caledonia
AF NE NER Niger
OC NF NFK Norfolk Island
AF NG NGA Nigeria
NA NI NIC Nicaragua
EU NL NLD Netherlands
EU NO NOR Norway
AS NP NPL Nepal
OC NR NRU Nauru
OC NU NIU Niue
OC NZ NZL New Zealand
AS OM OMN Oman
NA PA PAN Panama
SA PE PER Peru
OC PF PYF French Polynesia
OC PG PNG Papua New Guinea
AS PH PHL Philippines
AS PK PAK Pakistan
EU PL POL Poland
NA PM SPM Saint Pierre and Miquelon
OC PN PCN Pitcairn Islands
NA PR PRI Puerto Rico
AS PS PSE Palestinian Territory
EU PT PRT Portugal
OC PW PLW Palau
SA PY PRY Paraguay
AS QA QAT Qatar
AF RE REU Reunion
EU RO ROU Romania
EU RU RUS Russian Federation
AF RW RWA Rwanda
AS SA SAU Saudi Arabia
OC SB SLB Solomon Islands
AF SC SYC Seychelles
AF SD SDN Sudan
EU SE SWE Sweden
AS SG SGP Singapore
AF SH SHN Saint Helena
EU SI SVN Slovenia
EU SJ SJM Svalbard and Jan Mayen
EU SK SVK Slovakia
AF SL SLE Sierra Leone
EU SM SMR San Marino
AF SN SEN Senegal
AF SO SOM Somalia
SA SR SUR Suriname
AF ST STP Sao Tome and Principe
NA SV SLV El Salvador
AS SY SYR Syrian Arab Republic
AF SZ SWZ Swaziland
NA TC TCA Turks and Caicos Islands
AF TD TCD Chad
AN TF ATF French Southern Territories
AF TG TGO Togo
AS TH THA Thailand
AS TJ TJK Tajikistan
OC TK TKL Tokelau
AS TM TKM Turkmenistan
AF TN TUN Tunisia
OC TO TON Tonga
AS TL TLS Timor-Leste
EU TR TUR Turkey
NA TT TTO Trinidad and Tobago
OC TV TUV Tuvalu
AS TW TWN Taiwan
AF TZ TZA Tanzania, United Republic of
EU UA UKR Ukraine
AF UG UGA Uganda
OC UM UMI United States Minor Outlying Islands
NA US USA United States
SA UY URY Uruguay
AS UZ UZB Uzbekistan
EU VA VAT Holy See (Vatican City State)
NA VC VCT Saint Vincent and the Grenadines
SA VE VEN Venezuela
NA VG VGB Virgin Islands, British
NA VI VIR Virgin Islands, U.S.
AS VN VNM Vietnam
OC VU VUT Vanuatu
OC WF WLF Wallis and Futuna
OC WS WSM Samoa
AS YE YEM Yemen
AF YT MYT Mayotte
EU RS SRB Serbia
AF ZA ZAF South Africa
AF ZM ZMB Zambia
EU ME MNE Montenegro
AF ZW ZWE Zimbabwe
-- A1 A1 Anonymous Proxy
-- A2 A2 Satellite Provider
-- O1 O1 Other
EU AX ALA Aland Islands
EU GG GGY Guernsey
EU IM IMN Isle of Man
EU JE JEY Jersey
NA BL BLM Saint Barthelemy
NA MF MAF Saint Martin
NA BQ BES Bonaire, Saint Eustatius and Saba
AF SS SSD South Sudan
-- O1 O1 Other
"""

UNKNOWN: Final = Country("--", "--", "--", "")

COUNTRIES: Final = (UNKNOWN, *(Country(*line.split(" ", 3)) for line in _LINES.splitlines()))

# spelled otherwise where a database is read as UTF-8
UTF8_NAMES: Final = {"CW": "Curaçao"}
